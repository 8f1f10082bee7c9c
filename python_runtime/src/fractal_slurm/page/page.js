"use strict";
// The table of tasks: filtered and shown a hundred at a time, so that ten thousand are as quick as ten.
(() => {
  const SHOWN = 100;
  const rows = JSON.parse(document.getElementById("tasks-data").textContent);
  const body = document.getElementById("tasks-body");
  const words = document.getElementById("tasks-words");
  const text = document.getElementById("tasks-text");
  const state = document.getElementById("tasks-state");
  const order = document.getElementById("tasks-order");
  const columns = { index: 0, seconds: 4, memory: 5 };
  let first = 0;
  let found = rows;

  function number(value, digits) {
    return value === null ? "" : value.toFixed(digits);
  }

  function show() {
    body.replaceChildren(...found.slice(first, first + SHOWN).map((row) => {
      const line = document.createElement("tr");
      const cells = [row[0], row[1], row[2], row[3], number(row[4], 1), number(row[5], 0), row[6]];
      cells.forEach((cell, column) => {
        const item = document.createElement(column ? "td" : "th");
        item.textContent = cell; // text, whatever is in it
        if (column === 0) item.scope = "row";
        if (column === 0 || column === 4 || column === 5) item.className = "number";
        if (column === 1 && cell === "failed") item.className = "state-bad";
        line.append(item);
      });
      return line;
    }));
    const last = Math.min(first + SHOWN, found.length);
    words.textContent = found.length ? `${first + 1} to ${last} of ${found.length}` : "no task fits";
    document.getElementById("tasks-back").disabled = first === 0;
    document.getElementById("tasks-next").disabled = last >= found.length;
  }

  function filter() {
    const wanted = text.value.toLowerCase();
    found = rows.filter((row) => (!state.value || row[1] === state.value)
      && (!wanted || `${row[0]} ${row[2]} ${row[3]} ${row[6]}`.toLowerCase().includes(wanted)));
    const column = columns[order.value];
    if (column) found.sort((a, b) => (b[column] ?? -1) - (a[column] ?? -1));
    first = 0;
    show();
  }

  for (const field of [text, state, order]) field.addEventListener("input", filter);
  document.getElementById("tasks-form").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("tasks-back").addEventListener("click", () => { first = Math.max(0, first - SHOWN); show(); });
  document.getElementById("tasks-next").addEventListener("click", () => { first += SHOWN; show(); });
  document.getElementById("tasks-form").hidden = false;
  filter();
})();
