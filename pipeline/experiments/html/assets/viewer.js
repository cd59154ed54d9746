// The page of an utterance: sound, mouse, touch and keys.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  for (const tier of data.tiers) if (!tier.end) tier.end = [...tier.start.slice(1), tier.last];
  const audio = $("audio"), view = $("view");
  const scale = new Scale(data.duration);
  const picture = new Picture($("picture"), $("moving"), data, scale);
  const recognised = data.recognised.map(recognisedTier).filter((t) => t.label.length);
  const hidden = new Set();
  let tiers = [], correction = null, active = null, cursor = 0, selection = null, stopAt = null, pending = false;

  function recognisedTier(found) {
    const tier = { system: `recognised by ${found.system}`, kind: "recognised", label: [], start: [], end: [], what: [], confidence: [] };
    for (const [ref, hyp, start, end, confidence] of found.words) {
      if (start === null) continue;
      tier.label.push(hyp || ref);
      tier.start.push(start);
      tier.end.push(end);
      tier.confidence.push(confidence);
      tier.what.push(ref === hyp ? "right" : !ref ? "inserted" : !hyp ? "missing" : "wrong");
    }
    return tier;
  }

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // ---- drawing

  function relayout() {
    tiers = [...data.tiers, ...recognised].filter((t) => !hidden.has(t.system) && !hidden.has(`kind ${t.kind}`));
    if (correction) tiers.push(...correction.tiers);
    if (active && !tiers.includes(active.tier)) active = null;
    picture.layout(tiers);
    redraw();
  }

  function redraw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      picture.draw(active);
      picture.drawMoving(cursor, selection, active);
      const most = Math.max(scale.duration - scale.span, 0);
      $("position").value = most ? scale.start / most : 0;
      $("position").disabled = !most;
      $("position").parentElement.hidden = !most;
    });
  }
  picture.onload = redraw;

  function say(text) { $("status").textContent = text; }

  function seconds(t) { return `${t.toFixed(3)} s`; }

  function tell() {
    const { tier, segment: i } = active;
    const parts = [`${tier.system}, ${tier.kind} ${tier.label[i]}`, `${seconds(tier.start[i])} to ${seconds(tier.end[i])}`,
      `${Math.round(1000 * (tier.end[i] - tier.start[i]))} ms`];
    if (tier.what && tier.what[i] !== "right") parts.push(tier.what[i]);
    if (tier.confidence && tier.confidence[i] !== null) parts.push(`confidence ${tier.confidence[i].toFixed(2)}`);
    for (const [key, verb] of [["startDiff", "starts"], ["endDiff", "ends"]]) {
      const ms = tier[key] ? tier[key][i] : null;
      if (ms !== null) parts.push(`${verb} ${Math.abs(ms)} ms ${ms < 0 ? "earlier" : "later"}`);
    }
    say(parts.join(", "));
  }

  // ---- sound

  function play(from, to) {
    if (!data.audio) { say("There is no sound to play."); return; }
    stopAt = to;
    audio.currentTime = from;
    cursor = from;
    audio.play().catch((e) => say(`The sound cannot be played: ${e.message}`));
  }

  function stop() { audio.pause(); }

  // Stops at the end of what was to be played, wherever the sound has got to by then.
  function stopInTime() {
    if (audio.paused || stopAt === null || audio.currentTime < stopAt) return;
    stop();
    cursor = audio.currentTime = stopAt;
  }

  function follow() {
    if (audio.paused) return;
    cursor = audio.currentTime;
    stopInTime();
    if (cursor < scale.start || cursor > scale.end) { scale.scrollTo(cursor); redraw(); }
    picture.drawMoving(cursor, selection, active);
    requestAnimationFrame(follow);
  }

  if (data.audio) audio.src = data.audio;
  audio.addEventListener("play", () => { $("play").textContent = "Stop"; $("play").classList.add("playing"); requestAnimationFrame(follow); });
  audio.addEventListener("pause", () => { $("play").textContent = "Play"; $("play").classList.remove("playing"); redraw(); });
  // Drawing rests while the page is hidden; sound has to stop all the same.
  audio.addEventListener("timeupdate", stopInTime);
  audio.addEventListener("error", () => {
    document.querySelector(".notes").append(element("p", { textContent: "The sound beside this page cannot be played." }));
    data.audio = null;
    $("play").disabled = true;
  });
  $("play").disabled = !data.audio;

  function toggle() {
    if (!audio.paused) stop();
    else if (selection) play(selection[0], selection[1]);
    else play(cursor >= scale.duration - 0.01 ? 0 : cursor, null);
  }

  // ---- choosing

  function choose(tier, segment, sound) {
    active = { tier, segment };
    selection = null;
    cursor = tier.start[segment];
    scale.reveal(tier.start[segment], tier.end[segment]);
    tell();
    const editable = Boolean(tier.editable);
    $("label").disabled = !editable;
    $("label").value = editable ? tier.label[segment] : "";
    if (sound) play(tier.start[segment], Math.max(tier.end[segment], tier.start[segment] + 0.05));
    redraw();
  }

  function segmentAt(tier, time) {
    const i = firstAbove(tier.end, time);
    return i < tier.start.length && tier.start[i] <= time ? i : -1;
  }

  function step(direction) {
    if (!tiers.length) return;
    if (!active) { choose(tiers[0], Math.min(firstAbove(tiers[0].end, cursor), tiers[0].start.length - 1), false); return; }
    const i = active.segment + direction;
    if (i >= 0 && i < active.tier.start.length) choose(active.tier, i, false);
  }

  function change(direction) {
    if (!active) { step(0); return; }
    const next = tiers[tiers.indexOf(active.tier) + direction];
    if (next) choose(next, Math.min(firstAbove(next.end, cursor + 1e-6), next.start.length - 1), false);
  }

  function nextDifference(direction) {
    let best = null;
    for (const tier of tiers) {
      for (const mark of marks(tier, data.threshold, -1, scale.duration + 1)) {
        const ahead = direction * (mark.time - cursor);
        if (ahead > 1e-4 && (!best || ahead < best.ahead)) best = { ahead, tier, ...mark };
      }
    }
    if (!best) { say(`No ${direction > 0 ? "further" : "earlier"} boundary that differs by more than ${data.threshold} ms.`); return; }
    choose(best.tier, best.segment, false);
    cursor = best.time;
    say(`${best.tier.system}, ${best.tier.kind} ${best.tier.label[best.segment]} at ${seconds(best.time)}: ${Math.abs(best.ms)} ms ` +
      `${best.ms < 0 ? "earlier" : "later"} than by ${data.tiers[0].system}`);
    redraw();
  }

  function select(from, to) {
    selection = [Math.min(from, to), Math.max(from, to)];
    say(`Selected ${seconds(selection[0])} to ${seconds(selection[1])}, ${Math.round(1000 * (selection[1] - selection[0]))} ms`);
    redraw();
  }

  // ---- correcting

  const sources = [...new Set(data.tiers.filter((t) => t.kind !== "state").map((t) => t.system))];
  for (const name of sources) $("source").append(element("option", { value: name, textContent: name }));
  $("correct").hidden = !sources.length;
  $("source").addEventListener("change", () => {
    const name = $("source").value;
    correction = name ? new Correction(data.tiers.filter((t) => t.system === name && t.kind !== "state"), data.duration) : null;
    $("save").disabled = !correction;
    $("label").disabled = true;
    changed();
    relayout();
  });

  function changed() {
    $("undo").disabled = !correction || !correction.undone.length;
    redraw();
  }

  function undo() {
    if (!correction) return;
    correction.undo();
    if (active && active.tier.editable) tell();
    changed();
  }

  function nudge(delta) {
    if (!active || !active.tier.editable) { say("Choose a segment of the tier \u201ccorrected\u201d first."); return; }
    const at = active.tier.start[active.segment], edges = correction.edges(at);
    correction.remember(edges);
    correction.move(edges, at + delta);
    cursor = active.tier.start[active.segment];
    tell();
    changed();
  }

  function save() {
    if (!correction) { say("Choose what to correct first."); return; }
    const text = textGrid(data.id, correction.tiers, data.duration);
    const link = element("a", {
      href: URL.createObjectURL(new Blob([text], { type: "text/plain" })),
      download: `${data.id.replace(/[^\p{L}\p{N}_.-]+/gu, "_").replace(/^\.+/, "") || "utterance"}.TextGrid`,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`Saved ${link.download}.`);
  }

  $("label").addEventListener("change", () => {
    if (!active || !active.tier.editable) return;
    correction.rename(active.tier, active.segment, $("label").value.trim());
    changed();
  });

  // ---- mouse and touch

  const fingers = new Map();
  let drag = null;

  function place(event) {
    const box = view.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  function edgeNear(row, x, width) {
    if (!row || !row.tier || !row.tier.editable) return null;
    let best = null;
    for (const side of ["start", "end"]) {
      for (const t of row.tier[side]) {
        const far = Math.abs(scale.x(t) - x);
        if (far < width && (!best || far < best.far)) best = { far, time: t };
      }
    }
    return best && correction.edges(best.time);
  }

  view.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const [x, y] = place(event), row = picture.rowAt(y), touch = event.pointerType === "touch";
    view.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, x);
    const edges = edgeNear(row, x, touch ? 14 : 6);
    if (edges) correction.remember(edges);
    drag = { x, start: scale.start, from: scale.at(x), row, edges, moved: false, touch };
  });

  view.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (!drag) {
      view.style.cursor = edgeNear(picture.rowAt(y), x, 6) ? "col-resize" : "";
      return;
    }
    if (fingers.size === 2) { // pinch
      const [a, b] = [...fingers.values()], before = Math.abs(a - b);
      fingers.set(event.pointerId, x);
      const [c, d] = [...fingers.values()];
      scale.zoom(Math.abs(c - d) / Math.max(before, 1), (c + d) / 2);
      drag.moved = true;
      redraw();
      return;
    }
    if (Math.abs(x - drag.x) > 4) drag.moved = true;
    if (!drag.moved) return;
    if (drag.edges) { correction.move(drag.edges, scale.at(x)); changed(); }
    else if (drag.touch) { scale.scrollTo(drag.start - (x - drag.x) / scale.perSecond); redraw(); }
    else select(drag.from, scale.at(x));
  });

  view.addEventListener("pointerup", (event) => {
    const [x, y] = place(event), was = drag;
    fingers.delete(event.pointerId);
    drag = null;
    if (!was || (was.moved && !was.edges)) return;
    if (was.edges && was.moved) { say(`Boundary at ${seconds(was.edges[0].tier[was.edges[0].side][was.edges[0].i])}`); return; }
    if (was.edges) correction.undone.pop();
    const row = picture.rowAt(y), time = scale.at(x);
    if (selection && time > selection[0] && time < selection[1] && (!row || !row.tier)) { play(selection[0], selection[1]); return; }
    const segment = row && row.tier ? segmentAt(row.tier, time) : -1;
    if (segment >= 0) { choose(row.tier, segment, true); return; }
    selection = null;
    cursor = time;
    if (!audio.paused) play(time, null); else if (data.audio) audio.currentTime = time;
    say(`Cursor at ${seconds(time)}`);
    redraw();
  });

  view.addEventListener("pointercancel", (event) => { fingers.delete(event.pointerId); drag = null; });

  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) scale.zoom(Math.exp(-event.deltaY / 300), place(event)[0]);
    else scale.scrollTo(scale.start + (event.deltaX + event.deltaY) / scale.perSecond);
    redraw();
  }, { passive: false });

  // ---- keys and buttons

  function zoom(factor) {
    const x = scale.x(cursor);
    scale.zoom(factor, x >= 0 && x <= scale.width ? x : scale.width / 2);
    redraw();
  }

  function jump(time) {
    cursor = time;
    active = null;
    if (data.audio) audio.currentTime = time;
    scale.reveal(time, time);
    say(`Cursor at ${seconds(time)}`);
    redraw();
  }

  function extend(delta) {
    const anchor = selection ? (Math.abs(cursor - selection[0]) < 1e-6 ? selection[1] : selection[0]) : cursor;
    cursor = Math.min(Math.max(cursor + delta, 0), scale.duration);
    scale.reveal(cursor, cursor);
    select(anchor, cursor);
  }

  function follow_link(id) { const link = $(id); if (link) link.click(); }

  const KEYS = {
    " ": toggle, ArrowLeft: (e) => (e.shiftKey ? extend(-0.01) : step(-1)), ArrowRight: (e) => (e.shiftKey ? extend(0.01) : step(1)),
    ArrowUp: () => change(-1), ArrowDown: () => change(1),
    Enter: () => active && choose(active.tier, active.segment, true),
    Home: () => jump(0), End: () => jump(scale.duration),
    PageUp: () => { scale.scrollTo(scale.start - 0.8 * scale.span); redraw(); },
    PageDown: () => { scale.scrollTo(scale.start + 0.8 * scale.span); redraw(); },
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => { scale.fit(); redraw(); },
    d: () => nextDifference(1), D: () => nextDifference(-1),
    ",": () => nudge(-0.005), ".": () => nudge(0.005), "<": () => nudge(-0.001), ">": () => nudge(0.001),
    ";": () => nudge(-0.001), ":": () => nudge(0.001),
    z: undo, s: save, n: () => follow_link("after"), p: () => follow_link("before"),
    Escape: () => { stop(); selection = null; redraw(); },
    "?": () => { $("keys").open = true; $("keys").scrollIntoView(); },
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target.tagName;
    if (at === "INPUT" || at === "SELECT" || at === "TEXTAREA") return;
    if ((at === "BUTTON" || at === "SUMMARY" || at === "A") && (event.key === " " || event.key === "Enter")) return;
    const action = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : null;
    if (!action) return;
    event.preventDefault();
    action(event);
  });

  for (const [id, action] of [["play", toggle], ["zoom-in", () => zoom(1.5)], ["zoom-out", () => zoom(1 / 1.5)],
    ["fit", KEYS[0]], ["help", KEYS["?"]], ["difference", () => nextDifference(1)], ["undo", undo], ["save", save]]) $(id).addEventListener("click", action);
  $("speed").addEventListener("change", () => { audio.playbackRate = Number($("speed").value); });
  $("position").addEventListener("input", () => { scale.scrollTo($("position").value * (scale.duration - scale.span)); redraw(); });

  // ---- what is shown, and the same as text

  const everything = [...data.tiers, ...recognised];
  $("shown").hidden = !everything.length;
  for (const name of [...new Set(everything.map((t) => t.system)), ...["word", "phone", "state"].map((k) => `kind ${k}`)]) {
    if (!everything.some((t) => t.system === name || `kind ${t.kind}` === name)) continue;
    const box = element("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => { if (box.checked) hidden.delete(name); else hidden.add(name); relayout(); });
    $("shown").append(element("label", {}, box, ` ${name.replace(/^kind (.*)/, "all tiers: $1")}`));
  }

  for (const found of data.recognised) {
    const line = element("p", {}, `${found.system} (${found.errors} ${found.errors === 1 ? "error" : "errors"}): `);
    for (const [ref, hyp] of found.words) {
      const pair = element("span", { className: "pair", dir: "auto" });
      if (ref === hyp) pair.append(hyp);
      else if (!hyp) pair.append(element("del", { textContent: ref }), element("small", { textContent: "missing" }));
      else pair.append(element("span", { className: "wrong", textContent: hyp }), element("small", { textContent: ref ? `for ${ref}` : "inserted" }));
      line.append(pair, " ");
    }
    $("recognised").append(line);
  }

  $("times").addEventListener("toggle", () => {
    if (!$("times").open) return;
    for (const old of $("times").querySelectorAll("div")) old.remove();
    const body = element("tbody"), first = scale.start, last = scale.end;
    for (const tier of tiers) {
      if (tier.kind === "state") continue;
      for (let i = firstAbove(tier.end, first); i < tier.start.length && tier.start[i] < last && body.rows.length < 3000; i++) {
        const number = (x, digits) => element("td", { className: "number", textContent: x === null || x === undefined ? "" : x.toFixed(digits) });
        body.append(element("tr", {}, element("td", { textContent: tier.system }), element("td", { textContent: tier.kind }),
          element("td", { textContent: tier.label[i] }), number(tier.start[i], 3), number(tier.end[i], 3),
          number(tier.confidence && tier.confidence[i], 2), number(tier.startDiff && tier.startDiff[i], 0), number(tier.endDiff && tier.endDiff[i], 0)));
      }
    }
    const names = ["system", "tier", "symbol", "start s", "end s", "confidence", "start later by ms", "end later by ms"];
    const head = element("thead", {}, element("tr", {}, ...names.map((n) => element("th", { scope: "col", textContent: n }))));
    $("times").append(element("div", { className: "scroll", tabIndex: 0 }, element("table", {}, head, body)));
  });

  // ---- start

  document.addEventListener("themechange", () => { picture.recolour(); redraw(); });
  new ResizeObserver(() => { picture.resize(); redraw(); }).observe(view);
  picture.recolour();
  relayout();
  if (data.duration > 30) scale.show(20, 0);
  picture.draw(active);
  view.focus({ preventScroll: true });
  window.fullsum = {
    ready: performance.now(), scale, picture,
    get active() { return active; }, get cursor() { return cursor; }, get selection() { return selection; }, get correction() { return correction; },
  };
})();
