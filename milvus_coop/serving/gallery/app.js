/**
 * The live page: the search box, what is in the address bar, and a designed state for everything that can happen.
 */

import { Api, Away, Refused, local } from "./api.js";
import { ResultView, count, element, icon } from "./grid.js";

const $ = (id) => /** @type {any} */ (document.getElementById(id));
const [form, box, filter, depth, least, limit, chooser] = ["search", "text", "filter", "k", "least", "shown", "collection"].map($);
const more = $("more");
const state = $("state");
const DEFAULT_K = "50";
const DEFAULT_SHOWN = "24";
const GHOSTS = 10;
const TOUCH = matchMedia("(pointer: coarse)").matches;
const LOOK = ["M11 4a7 7 0 1 0 0 14a7 7 0 1 0 0-14z", "M16.2 16.2 21 21"];
const CLOUD = ["M7 18h9.5a4 4 0 0 0 .8-7.9A6 6 0 0 0 6 8.5", "M4.5 12A4 4 0 0 0 7 18", "M3 3l18 18"];
const ALERT = ["M12 4 2.8 20h18.4z", "M12 10v4.5", "M12 17.2v.01"];
const WORDS = ["M4 7V5h16v2", "M12 5v14", "M9 19h6"];
const IMAGE = ["M5 5h14a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V7a2 2 0 0 1 2-2z", "M4 17.5 10 13l3 2.5 3.5-3.5 4 4"];
const KEY = ["M15 4a5 5 0 1 0 0 10a5 5 0 1 0 0-10z", "M11.3 12.7 4 20v1h3v-2.5h2.5V16h2"];

const api = new Api();
const view = new ResultView($("results"), { showImage, onView: () => remember() });

/** @type {import("./api.js").Collection[]} */
let collections = [];
/** @type {File | null} the image to search with */
let image = null;
/** @type {Map<string, File>} images of this page's history; the address bar cannot hold them */
const images = new Map();
/** @type {AbortController | null} of the search under way */
let running = null;
/** @type {"loading" | "ready" | "failed"} of the list of collections */
let phase = "loading";
/** @type {{query: import("./api.js").Query, ended: boolean} | null} what the page shows, and whether all its hits have come */
let shown = null;
/** whether somebody searched before it was there */
let early = false;
/** the collection that the address bar names, if it cannot be searched; '' if it can */
let absent = "";

// ---- Searching ----

/** @param {{push?: boolean}} [options] push: a new entry in the browser's history */
async function search({ push = true } = {}) {
  if (phase !== "ready") {
    early = true;
    return phase === "failed" ? start() : undefined;
  }
  const query = {
    collection: chooser.value,
    text: box.value.trim(),
    filter: filter.value.trim(),
    k: Number(depth.value),
    least: least.value === "" ? null : Number(least.value) / 100,
    image,
  };
  running?.abort();
  idle();
  if (absent) return missing(absent);
  if (push) remember(true);
  if (!query.collection || (!query.text && !image)) return welcome();
  const mine = (running = new AbortController());
  busy();
  try {
    const result = await api.search(query, mine.signal, (seconds) =>
      busy(`The server is busy; trying again in ${count(seconds, "second")}.`),
    );
    if (running === mine) show(result, query);
  } catch (problem) {
    if (running === mine) fail(problem);
  } finally {
    if (running === mine) idle();
  }
}

/** @param {import("./grid.js").Result} result @param {import("./api.js").Query} query */
function show(result, query) {
  state.replaceChildren();
  shown = { query, ended: result.hits.length < query.k };
  view.setLimit(Number(limit.value));
  view.show(result);
  offerMore();
  if (result.hits.length === 0) return nothing(query, result);
  say(`${result.reranked ? "" : "Not reranked. "}${view.summary}`);
}

/** Show or hide the button below the hits. */
function offerMore() {
  const hits = view.result?.hits.length ?? 0;
  more.hidden = !hits || !shown || (shown.ended && view.limit >= hits);
}

/** Show as many hits again, and ask for the next page if they are not here yet. */
async function showMore() {
  const { result } = view;
  if (!shown || !result) return;
  const page = shown;
  const wanted = view.limit + Number(limit.value);
  if (!page.ended && wanted > result.hits.length) {
    const mine = (running = new AbortController());
    more.disabled = true;
    say("Searching …");
    try {
      const next = await api.search(page.query, mine.signal, () => {}, result.hits.length);
      if (view.result !== result) return;
      page.ended = next.hits.length < page.query.k;
      view.add(next);
    } catch (problem) {
      if (running === mine) fail(problem);
      return;
    } finally {
      more.disabled = false;
      if (running === mine) running = null;
    }
  }
  view.setLimit(wanted);
  offerMore();
  say(`${count(view.order.length, "hit")} shown.`);
}

/** Blob URLs for images that need the API key; an `img` cannot send one. @type {import("./grid.js").ShowImage} */
function showImage(img, hit, size) {
  const path = `${hit.thumbnail}&size=${size}`;
  if (!api.key) {
    img.src = local(path);
    return;
  }
  api.image(path).then(
    (blob) => {
      const url = URL.createObjectURL(blob);
      const revoke = () => URL.revokeObjectURL(url);
      img.addEventListener("load", revoke, { once: true });
      img.addEventListener("error", revoke, { once: true });
      img.src = url;
    },
    () => img.dispatchEvent(new Event("error")),
  );
}

// ---- States ----

/** @param {string} text for those who listen */
function say(text) {
  $("status").textContent = text;
}

/** @param {string} [reason] why it takes longer */
function busy(reason = "") {
  const root = $("results");
  more.hidden = true;
  filter.removeAttribute("aria-invalid");
  root.classList.remove("stale");
  root.classList.toggle("busy", !root.hidden);
  root.setAttribute("aria-busy", "true");
  say(reason || "Searching …");
  state.replaceChildren(element("div", { id: "progress" }), ...notice(reason));
  if (root.hidden)
    state.append(
      element(
        "ol",
        { class: "grid ghosts", "aria-hidden": "true" },
        ...Array.from({ length: GHOSTS }, () => element("li", { class: "ghost" })),
      ),
    );
}

/** @param {string} text '' for none */
function notice(text) {
  return text ? [element("p", { class: "notice" }, icon(...ALERT), text)] : [];
}

function idle() {
  $("results").classList.remove("busy");
  $("results").removeAttribute("aria-busy");
  running = null;
}

/**
 * @param {{kind?: string, drawing: string[], title: string, lines?: (string | Node)[], rest?: Node[]}} what
 */
function showState({ kind = "", drawing, title, lines = [], rest = [] }) {
  const paragraphs = lines.filter(Boolean).map((line) => element("p", {}, line));
  state.replaceChildren(
    element(
      "section",
      { class: `state ${kind}`, role: kind.includes("bad") ? "alert" : null },
      icon(...drawing),
      element("h2", { text: title }),
      ...paragraphs,
      ...rest,
    ),
  );
}

function welcome() {
  view.clear();
  offerMore();
  say("");
  const chosen = collections.find((c) => c.name === chooser.value);
  if (!chosen) return empty();
  const things = count(chosen.count, chosen.kind === "text" ? "text" : "image");
  const tips = TOUCH
    ? [
        [WORDS, "Describe it in a few words"],
        [IMAGE, "Or tap the image in the box, to choose or take one"],
      ]
    : [
        [WORDS, "Describe it in a few words; ", element("kbd", { text: "/" }), " comes back here"],
        [["M12 4v11", "M7.5 10.5 12 15l4.5-4.5", "M4 19h16"], "Drop an image anywhere on this page"],
        [["M8 5H6v16h12V5h-2", "M9 3h6v4H9z"], "Or paste one from the clipboard"],
      ];
  showState({
    drawing: LOOK,
    title: `Search ${things}`,
    rest: [
      element(
        "ul",
        { class: "tips" },
        ...tips.map(([drawing, ...text]) => element("li", {}, icon(...drawing), element("span", {}, ...text))),
      ),
    ],
  });
}

/** Another collection's images would be taken for those that the address bar promises. @param {string} name */
function missing(name) {
  view.clear();
  offerMore();
  const isThere = collections.some((c) => c.name === name);
  const title = isThere ? `“${name}” cannot be searched here` : `There is no collection “${name}”`;
  const other = collections.find((c) => c.searchable && c.default) ?? collections.find((c) => c.searchable);
  const instead = element("button", {
    type: "button",
    text: `Search “${other?.name}” instead`,
    onclick: () => ((chooser.value = other?.name ?? ""), chooser.dispatchEvent(new Event("change"))),
  });
  showState({
    drawing: LOOK,
    title,
    lines: [isThere ? "This server’s bundle did not make it." : "The address of this page names it. It may have another name now."],
    rest: other ? [instead] : [],
  });
  say(title);
}

/** There is nothing to search in. */
function empty() {
  showState({
    drawing: LOOK,
    title: "Nothing to search yet",
    lines: [
      "The server has no collection that it can search. Fill one, then reload this page.",
      element("code", { text: "milvus-coop ingest photos/" }),
    ],
  });
  say("Nothing to search yet.");
}

/** @param {import("./api.js").Query} query @param {import("./grid.js").Result} result */
function nothing(query, result) {
  const bound = result.candidates > 0 ? least : filter;
  const drop = element("button", {
    type: "button",
    text: bound === least ? "Search for all matches" : "Search without the filter",
    onclick: () => ((bound.value = ""), search()),
  });
  const lines =
    bound === least
      ? [result.reranked ? `No match reaches ${least.value} %.` : stop(result.reason ?? "")]
      : query.filter
        ? ["The filter leaves nothing: ", element("code", {}, element("bdi", { text: query.filter }))]
        : [`The collection “${query.collection}” is empty.`];
  const rest = bound === least || query.filter ? [drop] : [];
  showState({ drawing: LOOK, title: "Nothing found", lines: [element("span", {}, ...lines)], rest });
  say("Nothing found.");
}

/** @param {unknown} problem */
function fail(problem) {
  const old = view.result !== null;
  $("results").classList.toggle("stale", old);
  const retry = element("button", { type: "button", class: "primary", text: "Try again", onclick: again });
  const kind = old ? "bad compact" : "bad";
  if (problem instanceof Refused) return refuse(problem, kind, retry);
  if (!(problem instanceof Away)) console.error(problem);
  const title = problem instanceof Away ? "The server is away" : "Something went wrong";
  const what =
    problem instanceof Away ? `${problem.message} Is it still running?` : "The page did not understand the server’s answer.";
  showState({ kind, drawing: CLOUD, title, lines: [what, old ? "Below is what was found last." : ""], rest: [retry] });
  say(`${title}. ${what}`);
}

/** @param {Refused} refused @param {string} kind @param {HTMLElement} retry */
function refuse({ problem }, kind, retry) {
  if (problem.status === 401) return askForKey(kind);
  const lines = [
    stop(problem.detail),
    problem.expected && `Expected: ${problem.expected}`,
    problem.run && element("span", {}, "Try: ", element("code", { text: problem.run })),
  ];
  const filtered = problem.status === 400 && filter.value !== "" && /\bfilter\b/i.test(problem.detail);
  if (filtered) {
    filter.setAttribute("aria-invalid", "true");
    filter.focus();
  }
  const id = problem.request_id && element("small", { class: "soft", text: `Request ${problem.request_id}` });
  const title = filtered
    ? "The filter does not work"
    : problem.status === 429
      ? "The server is busy"
      : problem.status >= 500
        ? "The server could not answer"
        : "This search does not work";
  showState({
    kind,
    drawing: ALERT,
    title,
    lines: [...lines, id].filter(Boolean),
    rest: problem.status >= 500 || problem.status === 429 ? [retry] : [],
  });
  say(`${title}. ${problem.detail}`);
}

/** @param {string} kind */
function askForKey(kind) {
  const input = element("input", {
    type: "password",
    autocomplete: "off",
    "aria-label": "API key",
    placeholder: "API key",
    required: true,
  });
  const submit = (event) => (event.preventDefault(), (api.key = input.value.trim()), again());
  const wrong = api.key
    ? "The server does not know the key that was given."
    : "The server asks for an API key. It stays in this tab only.";
  showState({
    kind: kind.replace("bad", ""),
    drawing: KEY,
    title: "An API key, please",
    lines: [wrong],
    rest: [element("form", { onsubmit: submit }, input, element("button", { class: "primary", text: "Use it" }))],
  });
  say(wrong);
  input.focus();
}

/** @param {string} text */
const stop = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

/** What failed is tried again: the list of collections, or the search. */
function again() {
  return phase === "ready" ? search({ push: false }) : start();
}

// ---- The address bar ----

/** @param {boolean} [push] a new entry in the history, for a new search */
function remember(push = false) {
  const parameters = new URLSearchParams();
  const values = { q: image ? "" : box.value.trim(), filter: filter.value.trim(), k: depth.value === DEFAULT_K ? "" : depth.value, match: least.value };
  for (const [name, value] of Object.entries(values)) if (value) parameters.set(name, value);
  if (chooser.value && !collections.find((c) => c.name === chooser.value)?.default) parameters.set("collection", chooser.value);
  if (view.view === "be") parameters.set("view", "be");
  if (limit.value !== DEFAULT_SHOWN) parameters.set("show", limit.value);
  const address = `${location.pathname}${parameters.size ? `?${parameters}` : ""}`;
  let key = history.state?.image ?? null;
  if (push) key = image ? String(Date.now()) : "";
  if (push && image) images.set(key, image);
  const same = address === location.pathname + location.search && key === (history.state?.image ?? "");
  history[push && !same ? "pushState" : "replaceState"]({ image: key }, "", address);
  document.title = image ? `${image.name} · milvus-coop` : box.value.trim() ? `${box.value.trim()} · milvus-coop` : "milvus-coop";
}

/** Fill in what the address bar says. */
function recall() {
  const parameters = new URLSearchParams(location.search);
  const usable = collections.filter((c) => c.searchable);
  const named = parameters.get("collection") ?? "";
  absent = usable.some((c) => c.name === named) ? "" : named;
  const asked = usable.find((c) => c.name === named) ?? (absent ? undefined : (usable.find((c) => c.default) ?? usable[0]));
  chooser.value = asked?.name ?? "";
  described(asked);
  box.value = parameters.get("q") ?? "";
  filter.value = parameters.get("filter") ?? "";
  depth.value = parameters.get("k") ?? DEFAULT_K;
  if (!depth.checkValidity()) depth.value = DEFAULT_K;
  least.value = parameters.get("match") ?? "";
  if (!least.checkValidity()) least.value = "";
  limit.value = parameters.get("show") ?? DEFAULT_SHOWN;
  if (!limit.value) limit.value = DEFAULT_SHOWN;
  view.setLimit(Number(limit.value));
  view.setView(parameters.get("view") === "be" ? "be" : "coop");
  choose(images.get(history.state?.image) ?? null);
  document.title = box.value ? `${box.value} · milvus-coop` : "milvus-coop";
}

// ---- The query ----

/** @param {File | null} file to search with, instead of the text */
function choose(file) {
  image = file;
  $("chip").hidden = !file;
  URL.revokeObjectURL($("chip-image").src);
  $("chip-image").removeAttribute("src");
  if (!file) return;
  box.value = "";
  $("chip-name").textContent = file.name || "pasted image";
  $("chip-image").src = URL.createObjectURL(file);
}

/** @param {Iterable<File> | null | undefined} files the first image among them is searched with */
function take(files) {
  const file = [...(files ?? [])].find((f) => f.type.startsWith("image/"));
  if (!file) return false;
  choose(file);
  search();
  return true;
}

/** @param {import("./api.js").Collection | undefined} collection */
function described(collection) {
  $("about").textContent = collection ? `${count(collection.count, "item")} · ${collection.bundle}` : "";
  box.placeholder = collection?.kind === "text" ? "Find texts by words, or by an image" : "Describe an image";
}

// ---- Events ----

form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
box.addEventListener("input", () => box.value && choose(null));
for (const bound of [depth, least]) bound.addEventListener("change", () => view.result && bound.checkValidity() && search());
more.addEventListener("click", showMore);
limit.addEventListener("change", () => {
  view.setLimit(Number(limit.value));
  offerMore();
  remember();
});
chooser.addEventListener("change", () => {
  absent = "";
  described(collections.find((c) => c.name === chooser.value));
  view.clear();
  search();
});
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  take($("file").files);
  $("file").value = "";
});
$("chip-remove").addEventListener("click", () => {
  choose(null);
  box.focus();
});
addEventListener("popstate", () => {
  recall();
  search({ push: false });
});
addEventListener("keydown", (event) => {
  const writing = event.target instanceof Element && event.target.closest("input:not([type=radio]), select, textarea, dialog");
  if (event.key !== "/" || writing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  box.focus();
  box.select();
});
addEventListener("paste", (event) => {
  // Office programs put an image of a copied text beside it.
  const isText = event.target instanceof HTMLInputElement && event.clipboardData?.types.includes("text/plain");
  if (!isText && take(event.clipboardData?.files)) event.preventDefault();
});

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
let depthOfDrag = 0;
addEventListener("dragenter", (event) => carriesFiles(event) && ($("drop").hidden = ++depthOfDrag === 0));
addEventListener("dragleave", (event) => carriesFiles(event) && ($("drop").hidden = --depthOfDrag <= 0));
addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  depthOfDrag = 0;
  $("drop").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  if (take(event.dataTransfer?.files)) return;
  state.replaceChildren(...notice("That is not an image."));
  say("That is not an image.");
});

// ---- Start ----

async function start() {
  phase = "loading";
  try {
    collections = await api.collections();
  } catch (problem) {
    phase = "failed";
    return fail(problem);
  }
  phase = "ready";
  const usable = collections.filter((c) => c.searchable);
  chooser.replaceChildren(...usable.map((c) => element("option", { value: c.name, text: c.name })));
  $("collection-label").hidden = usable.length < 2;
  if (!TOUCH && document.activeElement === document.body) box.focus();
  const [typed, chosen] = [box.value, image];
  recall();
  if (chosen) choose(chosen);
  else if (typed) box.value = typed;
  return search({ push: early });
}

start();
