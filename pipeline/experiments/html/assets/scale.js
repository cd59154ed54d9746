// Time and pixels: which part of the utterance the view shows.
"use strict";
class Scale {
  constructor(duration) {
    this.duration = Math.max(duration, 0.01);
    this.width = 100;
    this.start = 0;
    this.perSecond = 100;
  }

  get span() { return this.width / this.perSecond; }
  get end() { return this.start + this.span; }
  x(seconds) { return (seconds - this.start) * this.perSecond; }
  at(x) { return Math.min(Math.max(this.start + x / this.perSecond, 0), this.duration); }

  resize(width) {
    const whole = this.span >= this.duration - 1e-6;
    this.width = width;
    if (whole) this.fit(); else this.scrollTo(this.start);
  }

  fit() { this.perSecond = this.width / this.duration; this.start = 0; }

  show(span, centre) {
    this.perSecond = this.width / Math.min(span, this.duration);
    this.scrollTo(centre - this.span / 2);
  }

  // Zooms such that the time at pixel x stays there; at most 4,000 pixels a second.
  zoom(factor, x) {
    const fixed = this.start + x / this.perSecond;
    this.perSecond = Math.min(Math.max(this.perSecond * factor, this.width / this.duration), 4000);
    this.scrollTo(fixed - x / this.perSecond);
  }

  scrollTo(start) { this.start = Math.min(Math.max(start, 0), Math.max(this.duration - this.span, 0)); }

  // Scrolls only if [from, to] is not in view.
  reveal(from, to) {
    if (from < this.start || to > this.end) this.scrollTo(Math.max(from - this.span / 4, to - this.span));
  }
}

// First index of ascending values that is above x.
function firstAbove(values, x) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > x) high = middle; else low = middle + 1;
  }
  return low;
}
