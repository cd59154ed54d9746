// The list of utterances: searched, sorted and shown page by page; and tables that sort by their columns.
"use strict";
(() => {
  const PER_PAGE = 50;
  const $ = (id) => document.getElementById(id);
  const data = window.FULLSUM_LIST;
  const collator = new Intl.Collator(undefined, { numeric: true });

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // Any <table class="sortable">: buttons in the heads; cells may carry data-key, the number that they are sorted by.
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = element("button", { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => (row.cells[column].dataset.key === undefined ? row.cells[column].textContent : Number(row.cells[column].dataset.key));
        const empty = (k) => k === "" || Number.isNaN(k);
        const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
        rows.sort(([a], [b]) => {
          if (empty(a) || empty(b)) return empty(a) - empty(b);
          const order = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  if (!data) return;
  const count = data.id.length;
  let shown = [], page = 0, sort = { column: "order", down: false };

  function over(columns, chosen, worst) { // one column per utterance: of a system, or the worst of all
    if (chosen !== "") return columns[Number(chosen)];
    return Array.from({ length: count }, (_, i) => columns.reduce((best, c) => (c[i] === null ? best : best === null ? c[i] : worst(best, c[i])), null));
  }

  for (const [id, names] of [["of-alignment", data.systems], ["of-decoding", data.decodings], ["of-confidence", data.confident]]) {
    names.forEach((name, i) => $(id).append(element("option", { value: String(i), textContent: name })));
    $(id).parentElement.hidden = !names.length;
    $(id).addEventListener("change", refresh);
  }

  // Columns of which nothing is known are not shown.
  const known = { disagreement: data.systems.length, confidence: data.confident.length, errors: data.decodings.length };
  const absent = (column) => known[column] === 0;
  for (const column of Object.keys(known)) $(`by-${column}`).hidden = absent(column);

  let columns = {};
  function compute() {
    const errors = over(data.errors, $("of-decoding").value, Math.max);
    columns = {
      order: null, id: data.id, text: data.text, seconds: data.seconds,
      disagreement: over(data.disagreement, $("of-alignment").value, Math.max),
      confidence: over(data.confidence, $("of-confidence").value, Math.min),
      errors: errors.map((e, i) => (e === null ? null : 100 * e / Math.max(data.words[i], 1))),
    };
  }

  const lower = {};
  function searched(field) {
    if (!lower[field]) lower[field] = data[field].map((t) => ` ${t.toLocaleLowerCase()} `);
    return lower[field];
  }

  function refresh() {
    compute();
    const field = $("search-in").value, wanted = $("search").value.trim().toLocaleLowerCase().split(/\s+/).join(" ");
    const whole = field === "phones" ? ` ${wanted} ` : wanted; // phones are matched as a whole
    const texts = wanted ? searched(field) : null;
    shown = [];
    for (let i = 0; i < count; i++) if ((!texts || texts[i].includes(whole)) && (!$("with-page").checked || data.page[i])) shown.push(i);
    const values = columns[sort.column];
    if (values) {
      const sign = sort.down ? -1 : 1;
      shown.sort((a, b) => {
        const x = values[a], y = values[b];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return sign * (typeof x === "string" ? collator.compare(x, y) : x - y) || a - b;
      });
    }
    page = 0;
    draw();
  }

  function cell(column, i, digits) {
    const value = columns[column][i];
    return element("td", { className: "number", textContent: value === null ? "" : value.toFixed(digits), hidden: absent(column) });
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const rows = shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map((i) => {
      const id = data.page[i] ? element("a", { href: `utterances/${data.page[i]}.html`, textContent: data.id[i] }) : data.id[i];
      return element("tr", {}, element("td", {}, id), element("td", { className: "words", dir: "auto", textContent: data.text[i] }), cell("seconds", i, 1),
        cell("disagreement", i, 1), cell("confidence", i, 2), cell("errors", i, 1));
    });
    if (!rows.length) rows.push(element("tr", {}, element("td", { className: "empty", colSpan: 6, textContent: "No utterance matches this search." })));
    $("list").tBodies[0].replaceChildren(...rows);
    $("found").textContent = `${shown.length.toLocaleString("en")} of ${count.toLocaleString("en")} utterances, page ${page + 1} of ${pages}`;
    $("earlier").disabled = page === 0;
    $("later").disabled = page === pages - 1;
    for (const head of $("list").tHead.rows[0].cells) {
      if (head.dataset.column === sort.column) head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  for (const head of $("list").tHead.rows[0].cells) {
    const button = element("button", { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    head.hidden = absent(head.dataset.column);
    button.addEventListener("click", () => {
      const column = head.dataset.column, worstFirst = column === "disagreement" || column === "errors";
      sort = { column, down: sort.column === column ? !sort.down : worstFirst };
      refresh();
    });
  }
  for (const [id, column, down] of [["by-disagreement", "disagreement", true], ["by-confidence", "confidence", false], ["by-errors", "errors", true]]) {
    $(id).addEventListener("click", () => { sort = { column, down }; refresh(); });
  }
  $("search").addEventListener("input", refresh);
  $("search-in").addEventListener("change", refresh);
  $("with-page").addEventListener("change", refresh);
  $("earlier").addEventListener("click", () => { page--; draw(); });
  $("later").addEventListener("click", () => { page++; draw(); });
  for (const link of document.querySelectorAll("a[data-find]")) {
    link.addEventListener("click", () => {
      $("search").value = link.dataset.find;
      $("search-in").value = "id";
      refresh();
    });
  }
  refresh();
  window.fullsum = { ready: performance.now(), get shown() { return shown; } };
})();
