"use strict";

// A click on a column's heading, or Enter on it, sorts the table: up, down, as it was.
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

function valueOf(row, column) {
  const cell = row.cells[column];
  const text = (cell.dataset.value ?? cell.textContent).trim().replace("−", "-");
  const number = Number.parseFloat(text);
  return /^[-+]?[\d.]/.test(text) && !Number.isNaN(number) ? number : text;
}

function compare(one, other) {
  const numbers = [typeof one === "number", typeof other === "number"];
  if (numbers[0] && numbers[1]) return one - other;
  if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1; // words after numbers
  return one.localeCompare(other, "en", { numeric: true });
}

function sortBy(table, column, order) {
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((one, other) => one.dataset.index - other.dataset.index);
  if (order !== "none") {
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((one, other) => sign * compare(valueOf(one, column), valueOf(other, column)));
  }
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tBodies[0].rows].forEach((row, index) => { row.dataset.index = index; });
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = NEXT[head.getAttribute("aria-sort") ?? "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order !== "none") head.setAttribute("aria-sort", order);
      sortBy(table, column, order);
    });
  });
}

// A number opens the table of its runs, at its own line.
for (const button of document.querySelectorAll("[popovertarget]")) {
  button.addEventListener("click", () => {
    const list = button.popoverTargetElement;
    const lines = [...list.querySelectorAll("tr")];
    const asked = button.closest("td").cellIndex - 1; // after the solver's name
    lines.forEach((line, k) => line.classList.toggle("asked", k > 0 && k === asked));
    const half = () => (list.clientHeight - lines[asked].clientHeight) / 2;
    requestAnimationFrame(() => { list.scrollTop = lines[asked].offsetTop - half(); });
  });
}

// Claims: a button chooses an outcome, the field those that hold a text; an address opens its claim.
const claims = [...document.querySelectorAll(".claims > li")];
for (const group of document.querySelectorAll(".filter")) {
  const buttons = [...group.querySelectorAll("button")];
  const field = group.querySelector("input");
  const none = document.querySelector(".none");
  const choose = () => {
    const outcome = buttons.find((one) => one.ariaPressed === "true").dataset.outcome;
    const words = field.value.trim().toLowerCase();
    for (const claim of claims) {
      const fits = !outcome || claim.dataset.outcome === outcome;
      claim.hidden = !(fits && claim.textContent.toLowerCase().includes(words));
    }
    none.hidden = claims.some((claim) => !claim.hidden);
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.ariaPressed = String(other === button);
      choose();
    });
  }
  field.addEventListener("input", choose);
  group.hidden = false;
}

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target?.closest(".claims")) target.querySelector("details").open = true;
}

// On paper there is nothing to unfold.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll(".more:not([open])")];
  for (const more of unfolded) more.open = true;
});
addEventListener("afterprint", () => {
  for (const more of unfolded) more.open = false;
});
addEventListener("hashchange", openTarget);
openTarget();
