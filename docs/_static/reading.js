// What Sphinx and its theme leave out for readers who do not see or point: blocks that scroll can be reached by Tab, the
// captions of the contents say which level of heading they are, the two sidebars have names, and parameters on lines of
// their own are not taken for a list of definitions without terms.
addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("pre, .table-wrapper")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2");
  document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "Site navigation");
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
  for (const part of document.querySelectorAll(".sig > dl, .sig > dl > dd")) part.setAttribute("role", "none");
});
