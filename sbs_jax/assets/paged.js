"use strict";
// A table of many rows, shown a page at a time. Texts enter the page through textContent alone, so
// that no question or answer can act as HTML.
const PAGE_SIZE = 50;

function element(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}

// Whether a text holds every word of a search.
function holdsWords(search, texts) {
  if (!search.trim()) return true;
  const text = texts.join("\n").toLowerCase();
  return search.trim().toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

// A function that shows matches from the first page on; "back", "on" and "count" are parts.
// row: match -> tr. total: () -> number of rows before the filter.
function pager(part, row, total) {
  let page = 0;
  let matches = [];
  function show() {
    const pages = Math.max(1, Math.ceil(matches.length / PAGE_SIZE));
    const first = page * PAGE_SIZE;
    part("rows").replaceChildren(...matches.slice(first, first + PAGE_SIZE).map(row));
    part("count").textContent =
      `${matches.length} of ${total()} answers, page ${page + 1} of ${pages}`;
    part("back").disabled = page === 0;
    part("on").disabled = page >= pages - 1;
  }
  for (const [name, by] of [["back", -1], ["on", 1]]) {
    part(name).addEventListener("click", () => { page += by; show(); });
  }
  return (found) => { matches = found; page = 0; show(); };
}
