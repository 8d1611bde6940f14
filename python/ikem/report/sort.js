// Makes the tables of a page sortable by a click on a column's head: numbers by value, all else by name, blanks last.
"use strict";

for (const table of document.querySelectorAll("table")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rows = [...table.tBodies[0].rows];
      const text = (row) => row.cells[column].textContent.trim();
      const numeric = rows.every((row) => !text(row) || !Number.isNaN(parseFloat(text(row))));
      const before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : !numeric; // the greatest number first, the first name first
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) => (numeric ? parseFloat(a) - parseFloat(b) : a.localeCompare(b));
      rows.sort((a, b) => !text(a) - !text(b) || (up ? 1 : -1) * compare(text(a), text(b)));
      table.tBodies[0].append(...rows);
    });
  });
}
