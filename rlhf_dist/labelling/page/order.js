// An order of answers with ties: groups, best first, and those that have no place yet. Nothing here touches the page.

export class Order {
  constructor(letters, groups = []) {
    this.letters = letters;
    this.groups = groups.map((group) => [...group]);
  }

  get unranked() {
    return this.letters.filter((letter) => this.rankOf(letter) < 0);
  }

  get complete() {
    return this.unranked.length === 0;
  }

  /** The place of a letter's group, from 0; -1 where it has none. */
  rankOf(letter) {
    return this.groups.findIndex((group) => group.includes(letter));
  }

  tiedWith(letter) {
    return (this.groups[this.rankOf(letter)] ?? []).filter((other) => other !== letter);
  }

  /** Ties a letter with the group at a place. */
  tie(letter, rank) {
    const target = this.groups[rank];
    if (!target || target.includes(letter)) return;
    this.remove(letter);
    target.push(letter);
    target.sort();
  }

  /** Puts a letter alone before the group at a place; behind all, where there is no such group. */
  insert(letter, rank) {
    const target = this.groups[rank];
    if (target?.length === 1 && target[0] === letter) return;
    this.remove(letter);
    const place = target ? this.groups.indexOf(target) : this.groups.length;
    this.groups.splice(place, 0, [letter]);
  }

  remove(letter) {
    const group = this.groups[this.rankOf(letter)];
    if (!group) return;
    group.splice(group.indexOf(letter), 1);
    this.groups = this.groups.filter((other) => other.length);
  }

  /** One step up (-1) or down (1): out of a tie, or into the next one. */
  step(letter, direction) {
    const rank = this.rankOf(letter);
    if (rank < 0) {
      if (direction < 0) this.insert(letter, this.groups.length);
    } else if (this.groups[rank].length > 1) {
      const group = this.groups[rank];
      group.splice(group.indexOf(letter), 1);
      this.groups.splice(direction < 0 ? rank : rank + 1, 0, [letter]);
    } else {
      this.tie(letter, rank + direction);
    }
  }

  /** A rank by its number, from 1: tied with who has it; one more than there are is a new last one. */
  setRank(letter, number) {
    if (number <= this.groups.length) this.tie(letter, number - 1);
    else if (number === this.groups.length + 1) this.insert(letter, this.groups.length);
  }

  describe(letter) {
    const rank = this.rankOf(letter);
    if (rank < 0) return "not ranked";
    const tied = this.tiedWith(letter);
    const where = rank === 0 ? "rank 1, best" : `rank ${rank + 1}`;
    return tied.length ? `${where}, tied with ${tied.join(" and ")}` : where;
  }
}
