"use strict";
// Sorts a table by the column whose heading is clicked: numbers first from the largest, text from A; what
// has no value stays at the end.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const isText = heading.classList.contains("text");
    const before = heading.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : isText;
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column];
      const number = cell.dataset.sort === undefined ? NaN : Number(cell.dataset.sort);
      return { row, number, text: cell.textContent };
    });
    const sign = ascending ? 1 : -1;
    keyed.sort((a, b) => {
      if (isText) return sign * a.text.localeCompare(b.text, "en", { numeric: true });
      if (Number.isNaN(a.number) || Number.isNaN(b.number)) {
        return Number(Number.isNaN(a.number)) - Number(Number.isNaN(b.number));
      }
      return sign * (a.number - b.number);
    });
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...keyed.map((entry) => entry.row));
  });
}
