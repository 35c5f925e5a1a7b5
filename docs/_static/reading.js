// What Sphinx and its theme leave out for readers who do not see or point: blocks that scroll can be reached by Tab, and
// the captions of the contents say which level of heading they are.
addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("pre, .table-wrapper")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2");
});
