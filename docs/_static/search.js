// The theme's buttons stand inside of what Sphinx takes for the text of a page: without this, the
// excerpts of results begin with "System Settings Light Dark".
const wholeText = Search.htmlToText;
Search.htmlToText = (html, anchor) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  const around = ".bd-header-article, .bd-sidebar-secondary, .prev-next-area, #print-main-content";
  for (const part of page.querySelectorAll(around)) part.remove();
  return wholeText(page.documentElement.outerHTML, anchor);
};
