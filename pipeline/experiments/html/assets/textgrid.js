// A tier that can be corrected, and the TextGrid that Praat and steps/import_ali.py read.
"use strict";

const SHORTEST = 0.005; // seconds that a segment keeps

class Correction {
  constructor(tiers, duration) {
    this.duration = duration;
    this.undone = [];
    this.tiers = tiers.map((t) => ({
      system: "corrected", kind: t.kind, editable: true, label: [...t.label],
      start: t.start.map((s) => Math.min(s, duration)), end: t.end.map((e) => Math.min(e, duration)),
    }));
  }

  // All edges at a time: neighbours share one, and so do a word and its first or last phone.
  edges(time) {
    const found = [];
    for (const tier of this.tiers) {
      for (let i = Math.max(0, firstAbove(tier.end, time - 0.001) - 1); i < tier.start.length && tier.start[i] < time + 0.001; i++) {
        for (const side of ["start", "end"]) if (Math.abs(tier[side][i] - time) < 0.0006) found.push({ tier, i, side });
      }
    }
    return found;
  }

  // How far edges may move: every segment keeps its shortest length, and none overlaps its neighbour.
  limits(edges) {
    const among = (tier, i, side) => edges.some((e) => e.tier === tier && e.i === i && e.side === side);
    let low = 0, high = this.duration;
    for (const { tier, i, side } of edges) {
      if (side === "end") {
        low = Math.max(low, tier.start[i] + SHORTEST);
        if (i + 1 < tier.start.length && !among(tier, i + 1, "start")) high = Math.min(high, tier.start[i + 1]);
      } else {
        high = Math.min(high, tier.end[i] - SHORTEST);
        if (i > 0 && !among(tier, i - 1, "end")) low = Math.max(low, tier.end[i - 1]);
      }
    }
    return [low, high];
  }

  remember(edges) {
    this.undone.push(edges.map(({ tier, i, side }) => ({ tier, i, key: side, was: tier[side][i] })));
  }

  move(edges, time) {
    const [low, high] = this.limits(edges);
    if (low > high) return;
    const t = Math.round(Math.min(Math.max(time, low), high) * 1e4) / 1e4;
    for (const { tier, i, side } of edges) tier[side][i] = t;
  }

  rename(tier, i, label) {
    this.undone.push([{ tier, i, key: "label", was: tier.label[i] }]);
    tier.label[i] = label;
  }

  undo() {
    for (const { tier, i, key, was } of this.undone.pop() || []) tier[key][i] = was;
  }
}

function textGrid(id, tiers, duration) {
  const number = (x) => String(Math.round(x * 1e6) / 1e6);
  const quoted = (s) => `"${s.replace(/[\r\n]+/g, " ").replace(/"/g, '""')}"`;
  const named = [["utterance-id", [[0, duration, id]]]];
  for (const [kind, name, silence] of [["word", "words", ""], ["phone", "phones", "SIL"]]) {
    const tier = tiers.find((t) => t.kind === kind);
    if (!tier) continue;
    const rows = [];
    let at = 0;
    tier.label.forEach((label, i) => {
      const start = Math.max(tier.start[i], at), end = Math.min(tier.end[i], duration);
      if (end - start < 1e-6) return;
      if (start - at > 1e-6) rows.push([at, start, silence]);
      rows.push([start - at > 1e-6 ? start : at, end, label]);
      at = end;
    });
    if (duration - at > 1e-6) rows.push([at, duration, silence]);
    named.push([name, rows]);
  }
  const out = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", `xmax = ${number(duration)}`,
    "tiers? <exists>", `size = ${named.length}`, "item []:"];
  named.forEach(([name, rows], k) => {
    out.push(`    item [${k + 1}]:`, '        class = "IntervalTier"', `        name = "${name}"`, "        xmin = 0",
      `        xmax = ${number(duration)}`, `        intervals: size = ${rows.length}`);
    rows.forEach(([start, end, label], i) => out.push(`        intervals [${i + 1}]:`, `            xmin = ${number(start)}`,
      `            xmax = ${number(end)}`, `            text = ${quoted(label)}`));
  });
  return out.join("\n") + "\n";
}
