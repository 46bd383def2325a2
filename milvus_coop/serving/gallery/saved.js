// Follows grid.js in the same script of a file that `milvus-coop query --html` wrote.
const saved = JSON.parse(/** @type {HTMLElement} */ (document.getElementById("result")).textContent ?? "");
new ResultView(/** @type {HTMLElement} */ (document.getElementById("results")), {
  limit: saved.limit,
  showImage: (img, hit) => (img.src = hit.thumbnail),
}).show(saved);
