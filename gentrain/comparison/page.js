"use strict";
// Sorting by a column, and whether the runs of a folder stay together. Without this script the page is whole.
function value(row, column) {
  const cell = row.cells[column];
  const text = cell === undefined ? "" : cell.dataset.value ?? cell.textContent.trim();
  return text === "" ? null : isNaN(Number(text)) ? text.toLowerCase() : Number(text);
}
function compare(a, b) {
  return typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
}
function arrange(table) {
  const body = table.tBodies[0], state = table.state ?? {column: null, sign: 1};
  const rows = [...body.querySelectorAll("tr[data-group]:not(.group)")];
  if (state.column !== null) {
    rows.sort((a, b) => {
      const x = value(a, state.column), y = value(b, state.column);
      return x === null || y === null ? (x === null) - (y === null) : state.sign * compare(x, y);
    });
  }
  const together = document.getElementById("together");
  const headings = [...body.querySelectorAll("tr.group")];
  const apart = together !== null && !together.checked;
  for (const heading of headings) {
    heading.hidden = apart;
    body.append(heading);
    if (!apart) rows.filter(row => row.dataset.group === heading.dataset.group).forEach(row => body.append(row));
  }
  if (apart || headings.length === 0) rows.forEach(row => body.append(row));
}
const tables = [...document.querySelectorAll("table.sortable")];
for (const table of tables) {
  const headings = [...[...table.tHead.rows].at(-1).cells];
  headings.forEach((cell, column) => {
    cell.querySelector("button").addEventListener("click", () => {
      const rising = cell.getAttribute("aria-sort") === "ascending";
      headings.forEach(other => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", rising ? "descending" : "ascending");
      table.state = {column, sign: rising ? -1 : 1};
      arrange(table);
    });
  });
}
document.getElementById("together")?.addEventListener("change", () => tables.forEach(arrange));
