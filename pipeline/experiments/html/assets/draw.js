// The picture: waveform, spectrogram, time axis and tiers of what is in view. Only that is drawn, so that an hour is no slower
// than a second.
"use strict";

const WAVE = 72, SPECTROGRAM = 144, AXIS = 20, HEAD = 22, TIER = 24, BAR = 4;
const SYSTEMS = ["one", "two", "three", "four", "five", "six"]; // their colours, in turn
const SEEN_SECONDS = 300; // more of a spectrogram is not shown at once

class Picture {
  constructor(canvas, moving, data, scale) {
    Object.assign(this, { canvas, moving, data, scale, rows: [], images: new Map(), colours: {} });
    if (data.outline) {
      const raw = atob(data.outline);
      this.outline = Int8Array.from(raw, (c) => c.charCodeAt(0));
    }
  }

  // Rows from top to bottom, for the tiers that are shown.
  layout(tiers) {
    this.rows = [];
    let y = 0, system = null, number = -1;
    const add = (kind, height, more) => { this.rows.push({ kind, y, height, ...more }); y += height; };
    if (this.outline) { add("wave", WAVE); add("spectrogram", SPECTROGRAM); }
    add("axis", AXIS);
    for (const tier of tiers) {
      if (tier.system !== system) {
        const kinds = tiers.filter((t) => t.system === tier.system && t.kind !== "recognised").map((t) => `${t.kind}s`);
        number++;
        add("head", HEAD, { text: tier.system, more: kinds.join(", "), colour: SYSTEMS[number % SYSTEMS.length] });
        system = tier.system;
      }
      add("tier", TIER, { tier, colour: SYSTEMS[number % SYSTEMS.length] });
    }
    this.height = y + 2;
    this.resize();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.scale.resize(this.canvas.parentElement.clientWidth);
    for (const canvas of [this.canvas, this.moving]) {
      canvas.width = Math.round(this.scale.width * ratio);
      canvas.height = Math.round(this.height * ratio);
      canvas.style.height = `${this.height}px`;
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
  }

  recolour() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["page", "ink", "soft", "line", "fill", "edge", "wave", "cursor", "select", "mark", "markfill", "tier", "silence",
      "doubt", "active", "bad", ...SYSTEMS]) this.colours[name] = style.getPropertyValue(`--${name}`).trim();
    this.font = getComputedStyle(document.body).fontFamily;
    this.dark = document.documentElement.classList.contains("dark");
  }

  rowAt(y) { return this.rows.find((r) => y >= r.y && y < r.y + r.height) || null; }

  draw(active) {
    const c = this.canvas.getContext("2d");
    c.fillStyle = this.colours.page;
    c.fillRect(0, 0, this.scale.width, this.height);
    c.font = `12px ${this.font}`;
    c.textBaseline = "middle";
    for (const row of this.rows) {
      if (row.kind === "wave") this.drawWave(c, row);
      else if (row.kind === "spectrogram") this.drawSpectrogram(c, row);
      else if (row.kind === "axis") this.drawAxis(c, row);
      else if (row.kind === "head") this.drawHead(c, row);
      else if (row.tier.kind === "recognised") this.drawRecognised(c, row, active);
      else this.drawTier(c, row, active);
      if (row.colour) {
        c.fillStyle = this.colours[row.colour];
        c.fillRect(0, row.y + (row.kind === "head" ? 4 : 0), BAR, row.height - (row.kind === "head" ? 4 : 0));
      }
    }
    if (active) this.drawBoundaries(c, active.tier);
  }

  text(c, text, x, y, colour) { c.fillStyle = colour; c.textAlign = "left"; c.fillText(text, x, y); }

  drawHead(c, row) {
    const y = row.y + row.height / 2 + 3, font = c.font;
    c.font = `600 12px ${this.font}`;
    this.text(c, row.text, BAR + 5, y, this.colours[row.colour]);
    const after = BAR + 5 + c.measureText(row.text).width + 8;
    c.font = font;
    this.text(c, row.more, after, y, this.colours.soft);
  }

  // The boundaries of the tier that is looked at, across waveform and spectrogram.
  drawBoundaries(c, tier) {
    const rows = this.rows.filter((r) => r.kind === "wave" || r.kind === "spectrogram");
    if (!rows.length) return;
    const top = rows[0].y, bottom = rows[rows.length - 1].y + rows[rows.length - 1].height;
    c.save();
    c.strokeStyle = this.colours.cursor;
    c.globalAlpha = 0.55;
    c.setLineDash([3, 3]);
    c.beginPath();
    let drawn = -10;
    for (let i = firstAbove(tier.end, this.scale.start); i < tier.start.length && tier.start[i] < this.scale.end; i++) {
      for (const time of [tier.start[i], tier.end[i]]) {
        const x = Math.round(this.scale.x(time)) + 0.5;
        if (x - drawn < 3) continue; // too close to be told apart
        drawn = x;
        c.moveTo(x, top);
        c.lineTo(x, bottom);
      }
    }
    c.stroke();
    c.restore();
  }

  drawWave(c, row) {
    const { scale, outline } = this, step = this.data.step, middle = row.y + row.height / 2;
    c.fillStyle = this.colours.wave;
    for (let x = 0; x < scale.width; x++) {
      const first = Math.floor((scale.start + x / scale.perSecond) / step);
      const last = Math.max(first + 1, Math.floor((scale.start + (x + 1) / scale.perSecond) / step));
      let low = 127, high = -128;
      for (let i = first; i < last && 2 * i + 1 < outline.length; i++) {
        low = Math.min(low, outline[2 * i]);
        high = Math.max(high, outline[2 * i + 1]);
      }
      if (high < low) continue;
      const top = middle - high / 127 * (row.height / 2 - 2);
      c.fillRect(x, top, 1, Math.max(1, (high - low) / 127 * (row.height / 2 - 2)));
    }
  }

  drawSpectrogram(c, row) {
    const { scale } = this;
    if (scale.span > SEEN_SECONDS) {
      this.text(c, `zoom in: the spectrogram is shown for up to ${SEEN_SECONDS} seconds`, 6, row.y + row.height / 2, this.colours.soft);
      return;
    }
    for (const [source, start, end] of this.data.tiles) {
      if (end <= scale.start || start >= scale.end) continue;
      const image = this.image(source);
      if (!image.complete || !image.naturalWidth) continue;
      c.drawImage(image, scale.x(start), row.y, (end - start) * scale.perSecond, row.height);
    }
    if (this.dark) { // black on white becomes white on black
      c.save();
      c.globalCompositeOperation = "difference";
      c.fillStyle = "#fff";
      c.fillRect(0, row.y, Math.min(scale.width, scale.x(scale.duration)), row.height);
      c.restore();
    }
    const top = this.data.top / 1000;
    for (let khz = top > 5 ? 2 : 1; khz < top; khz += top > 5 ? 2 : 1) {
      const y = row.y + row.height * (1 - khz / top);
      c.fillStyle = this.colours.mark;
      c.fillRect(0, y, 6, 1);
      this.label(c, `${khz} kHz`, 8, y);
    }
  }

  label(c, text, x, y) {
    c.fillStyle = this.colours.page;
    c.globalAlpha = 0.75;
    c.fillRect(x - 1, y - 7, c.measureText(text).width + 2, 14);
    c.globalAlpha = 1;
    this.text(c, text, x, y, this.colours.ink);
  }

  image(source) {
    let image = this.images.get(source);
    if (!image) {
      image = new Image();
      image.onload = () => this.onload && this.onload();
      image.src = source;
      this.images.set(source, image);
      if (this.images.size > 40) this.images.delete(this.images.keys().next().value);
    }
    return image;
  }

  drawAxis(c, row) {
    const { scale } = this;
    const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600].find((s) => s * scale.perSecond > 60) || 1200;
    c.fillStyle = this.colours.line;
    c.fillRect(0, row.y, scale.width, 1);
    for (let k = Math.ceil(scale.start / step); k * step <= Math.min(scale.end, scale.duration); k++) {
      const t = k * step, x = scale.x(t);
      c.fillStyle = this.colours.line;
      c.fillRect(x, row.y, 1, 5);
      const minutes = Math.floor(t / 60 + 1e-9), rest = (t - 60 * minutes).toFixed(step < 0.1 ? 2 : step < 1 ? 1 : 0);
      const said = scale.duration > 90 ? `${minutes}:${rest.padStart(step < 0.1 ? 5 : step < 1 ? 4 : 2, "0")}` : `${rest} s`;
      if (x + 3 + c.measureText(said).width < scale.width) this.text(c, said, x + 3, row.y + 12, this.colours.soft);
    }
  }

  drawTier(c, row, active) {
    const { scale, colours } = this, { tier, y, height } = row;
    let drawn = -10;
    for (let i = firstAbove(tier.end, scale.start); i < tier.start.length && tier.start[i] < scale.end; i++) {
      const left = scale.x(tier.start[i]), right = scale.x(tier.end[i]);
      if (right - drawn < 1) continue; // several in one pixel
      drawn = right;
      const chosen = active && active.tier === tier && active.segment === i;
      c.fillStyle = chosen ? colours.active : tier.label[i] === "SIL" ? colours.silence : colours.tier;
      c.fillRect(left, y, right - left, height);
      const sure = tier.confidence ? tier.confidence[i] : null;
      if (sure !== null && sure < 0.995) this.doubt(c, left, y, right - left, height, 1 - sure);
      c.strokeStyle = chosen ? colours.ink : colours.edge;
      c.lineWidth = chosen ? 2 : 1;
      c.strokeRect(left + 0.5, y + 0.5, Math.max(right - left, 1), height - 1);
      this.inside(c, tier.label[i], left, right, y + height / 2, tier.label[i] === "SIL" ? colours.soft : colours.ink);
    }
    if (tier.startDiff) this.drawDifferences(c, row);
  }

  // Shading by how improbable, and hatching below one half.
  doubt(c, x, y, width, height, share) {
    c.save();
    c.beginPath();
    c.rect(x, y, width, height);
    c.clip();
    c.globalAlpha = share;
    c.fillStyle = this.colours.doubt;
    c.fillRect(x, y, width, height);
    if (share > 0.5) {
      c.globalAlpha = 0.8;
      c.strokeStyle = this.colours.soft;
      c.lineWidth = 1;
      c.beginPath();
      for (let at = Math.max(x, -height) - height; at < Math.min(x + width, this.scale.width); at += 6) {
        c.moveTo(at, y + height);
        c.lineTo(at + height, y);
      }
      c.stroke();
    }
    c.restore();
  }

  inside(c, text, left, right, y, colour) {
    const from = Math.max(left, 0), to = Math.min(right, this.scale.width), width = c.measureText(text).width;
    if (width + 2 > to - from) return;
    c.fillStyle = colour;
    c.textAlign = "center";
    c.fillText(text, (from + to) / 2, y + 1);
  }

  drawDifferences(c, row) {
    const { scale } = this;
    for (const mark of marks(row.tier, this.data.threshold, scale.start - 1, scale.end + 1)) {
      const x = scale.x(mark.time), other = scale.x(mark.time - mark.ms / 1000);
      c.fillStyle = this.colours.markfill;
      c.fillRect(Math.min(x, other), row.y + row.height - 5, Math.abs(x - other), 5);
      c.fillStyle = this.colours.mark;
      c.beginPath();
      c.moveTo(x - 4, row.y + row.height);
      c.lineTo(x + 4, row.y + row.height);
      c.lineTo(x, row.y + row.height - 8);
      c.fill();
    }
  }

  drawRecognised(c, row, active) {
    const { scale, colours } = this, { tier, y, height } = row;
    tier.label.forEach((label, i) => {
      const left = scale.x(tier.start[i]), right = scale.x(tier.end[i]), what = tier.what[i];
      if (right < 0 || left > scale.width) return;
      const chosen = active && active.tier === tier && active.segment === i;
      c.fillStyle = chosen ? colours.active : colours.tier;
      if (what === "inserted") {
        c.fillStyle = colours.bad;
        c.fillRect(left - 1, y, 2, height);
        this.label(c, `+${label}`, left + 3, y + height / 2);
        return;
      }
      c.fillRect(left, y, right - left, height);
      if (tier.confidence[i] !== null) this.doubt(c, left, y, right - left, height, 1 - tier.confidence[i]);
      c.strokeStyle = what === "right" ? colours.edge : colours.bad;
      c.lineWidth = what === "right" ? 1 : 2;
      c.strokeRect(left + 0.5, y + 0.5, Math.max(right - left, 1), height - 1);
      this.inside(c, what === "missing" ? `(${label})` : what === "wrong" ? `\u2260 ${label}` : label, left, right, y + height / 2,
        what === "right" ? colours.ink : colours.bad);
    });
  }

  // Cursor and selection, on a canvas of their own: they change with every frame while sound plays.
  drawMoving(cursor, selection, active) {
    const c = this.moving.getContext("2d"), { scale } = this;
    c.clearRect(0, 0, scale.width, this.height);
    const axis = this.rows.find((r) => r.kind === "axis");
    if (active && axis && axis.y) { // the segment, where it is heard and seen
      const left = scale.x(active.tier.start[active.segment]), right = scale.x(active.tier.end[active.segment]);
      c.fillStyle = this.colours.select;
      c.fillRect(left, 0, right - left, axis.y);
    }
    if (selection) {
      c.fillStyle = this.colours.select;
      c.fillRect(scale.x(selection[0]), 0, (selection[1] - selection[0]) * scale.perSecond, this.height);
    }
    c.fillStyle = this.colours.cursor;
    c.fillRect(scale.x(cursor) - 0.75, 0, 1.5, this.height);
  }
}

// Boundaries of a tier that lie further than the threshold from the reference's, each once, between two times.
function* marks(tier, threshold, from, to) {
  if (!tier.startDiff) return;
  for (let i = firstAbove(tier.end, from); i < tier.start.length && tier.start[i] < to; i++) {
    if (Math.abs(tier.startDiff[i] || 0) > threshold) yield { time: tier.start[i], ms: tier.startDiff[i], segment: i };
    const touches = i + 1 < tier.start.length && tier.start[i + 1] - tier.end[i] < 1e-4 && tier.startDiff[i + 1] !== null;
    if (!touches && Math.abs(tier.endDiff[i] || 0) > threshold) yield { time: tier.end[i], ms: tier.endDiff[i], segment: i };
  }
}
