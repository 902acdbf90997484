// What the theme's and Sphinx's markup lacks for keyboards and screen readers.
const all = selector => document.querySelectorAll(selector)

for (const box of all("pre, .table-wrapper, p:has(> img)")) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0
}
for (const caption of all(".caption[role=heading]")) caption.setAttribute("aria-level", "2")
for (const parameters of all("dt.sig dl")) parameters.setAttribute("role", "presentation")
for (const pages of all(".sidebar-drawer")) pages.setAttribute("aria-label", "All pages")
for (const contents of all(".toc-drawer")) contents.setAttribute("aria-label", "On this page")
