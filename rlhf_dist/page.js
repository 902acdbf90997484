"use strict";
// Reads figures off the charts by pointer, touch and arrow keys, and shows or hides curves by the legend's buttons.
// What a page says is there without it.
(() => {
  const hidden = new Set();
  const NS = "http://www.w3.org/2000/svg";
  const figure = (value) => {
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e7) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };

  for (const svg of document.querySelectorAll("svg[data-plot]")) {
    const plot = JSON.parse(svg.dataset.plot);
    const [xName, x0, x1, left, right] = plot.x;
    const [y0, y1, bottom, top] = plot.y;
    const px = (x) => left + ((x - x0) / (x1 - x0)) * (right - left);
    const py = (y) => bottom + ((y - y0) / (y1 - y0)) * (top - bottom);
    const bySteps = xName === "step";
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    tip.setAttribute("role", "status");
    svg.after(tip);
    const mark = document.createElementNS(NS, "g");
    mark.setAttribute("class", "mark");
    svg.append(mark);
    const lines = () => plot.lines.filter((line) => !hidden.has(line.number));
    const stops = () => [...new Set(lines().flatMap((line) => line.x))].sort((a, b) => a - b);
    let at = null; // the stop shown: a step, or [line, index] in a plane

    const nearest = (values, wanted) => {
      let best = 0;
      values.forEach((value, i) => { if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = i; });
      return best;
    };
    const row = (line, i) => {
      const entry = document.createElement("div");
      const key = document.createElement("span");
      key.className = "key";
      key.style.background = `var(--c${(line.number % 6) + 1})`;
      const value = document.createElement("b");
      value.textContent = figure(line.y[i]);
      const band = line.low ? ` (${figure(line.low[i])} to ${figure(line.high[i])})` : "";
      entry.append(key, `${line.label} `, value, band);
      return entry;
    };
    const dot = (line, i) => {
      const circle = document.createElementNS(NS, "circle");
      circle.setAttribute("cx", px(line.x[i]));
      circle.setAttribute("cy", py(line.y[i]));
      circle.setAttribute("r", 3.5);
      circle.style.fill = `var(--c${(line.number % 6) + 1})`;
      return circle;
    };
    const hide = () => { tip.hidden = true; mark.replaceChildren(); at = null; };
    const show = (heading, found, x) => {
      const head = document.createElement("small");
      head.textContent = heading;
      tip.replaceChildren(head, ...found.map(([line, i]) => row(line, i)));
      mark.replaceChildren(...found.map(([line, i]) => dot(line, i)));
      if (bySteps) {
        const rule = document.createElementNS(NS, "path");
        rule.setAttribute("d", `M${px(x)} ${top}V${bottom}`);
        mark.prepend(rule);
      }
      tip.hidden = false;
      const card = svg.parentElement.clientWidth;
      const middle = svg.offsetLeft + (px(x) / svg.viewBox.baseVal.width) * svg.clientWidth;
      tip.style.left = `${Math.max(4, Math.min(middle + (middle > card / 2 ? -tip.offsetWidth - 12 : 12), card - tip.offsetWidth - 4))}px`;
    };
    const showStep = (x) => {
      const found = lines()
        .map((line) => [line, nearest(line.x, x)])
        .filter(([line, i]) => line.x[i] === x);
      if (!found.length) return hide();
      at = x;
      show(`${xName} ${figure(x)}`, found, x);
    };
    const showPoint = (line, i) => {
      at = [line, i];
      const step = line.steps ? `step ${line.steps[i]}, ` : "";
      show(`${step}${xName} ${figure(line.x[i])}`, [[line, i]], line.x[i]);
    };
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      if (bySteps) {
        const known = stops();
        if (known.length) showStep(known[nearest(known.map(px), x)]);
        return;
      }
      let best = null;
      for (const line of lines()) line.x.forEach((value, i) => {
        const far = (px(value) - x) ** 2 + (py(line.y[i]) - y) ** 2;
        if (!best || far < best[0]) best = [far, line, i];
      });
      if (best) showPoint(best[1], best[2]);
    };
    const move = (by) => {
      if (bySteps) {
        const known = stops(), now = at === null ? (by > 0 ? -1 : known.length) : nearest(known, at);
        if (known.length) showStep(known[Math.max(0, Math.min(known.length - 1, now + by))]);
        return;
      }
      const all = lines().flatMap((line) => line.x.map((_, i) => [line, i]));
      const now = at === null ? (by > 0 ? -1 : all.length) : all.findIndex(([line, i]) => line === at[0] && i === at[1]);
      if (all.length) showPoint(...all[Math.max(0, Math.min(all.length - 1, now + by))]);
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); }); // a finger: blur
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
      if (event.key === "Escape") hide();
      if (by === undefined) return;
      event.preventDefault();
      move(by);
    });
  }

  for (const button of document.querySelectorAll("button[data-toggle]")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      const number = Number(button.dataset.toggle);
      const off = !hidden.has(number);
      if (off) hidden.add(number); else hidden.delete(number);
      button.setAttribute("aria-pressed", String(!off));
      for (const part of document.querySelectorAll(`[data-line="${number}"]`)) part.style.display = off ? "none" : "";
    });
  }
})();
