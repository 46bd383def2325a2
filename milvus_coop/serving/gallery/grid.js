/**
 * One search result as a grid of images or texts, with a switch between both orders and a dialog for details.
 * Used by the live page, and inline by the files of `milvus-coop query --html`. Imports nothing and loads nothing by itself.
 * Everything from outside becomes text nodes and attributes, never markup.
 *
 * @typedef {{id: string, uri: string, rank: number, score: number, be_rank: number, be_score: number, ce_score: number | null,
 *   text: string | null, fields: Record<string, unknown>, thumbnail: string | null}} Hit
 * @typedef {{collection: string, kind: "image" | "text" | null, query: {kind: "image" | "text", text: string | null}, hits: Hit[],
 *   reranked: boolean, reranked_count: number, candidates: number, reason: string | null,
 *   timings: {encode_ms: number, retrieve_ms: number, rerank_ms: number, total_ms: number}}} Result
 * @typedef {"coop" | "be"} View
 * @typedef {(img: HTMLImageElement, hit: Hit, size: number) => void} ShowImage
 */

const SMALL = 320;
const LARGE = 1024;
const NEARLY_WHITE = 235;
const NAMES = { coop: "Coop", be: "Bi-encoder only" };

// ---- Small helpers ----

/**
 * An element with properties (`class`, `text`, `hidden`, `onclick`, attributes) and children.
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null | undefined | false)} children what is not there is left out
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter(Boolean));
  return made;
}

/** @param {string[]} paths of one line drawing in a square of 24 */
export function icon(...paths) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const d of paths) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

const NO_IMAGE = [
  "M5 5h14a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V7a2 2 0 0 1 2-2z",
  "M4 17.5 10 13l3 2.5 3.5-3.5 4 4",
  "M3 3l18 18",
];

/** @param {number} share in [0, 1] */
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
/** @param {number} ms */
export const milliseconds = (ms) =>
  ms < 100 ? `${ms.toFixed(1)} ms` : ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
/** @param {number} n @param {string} word */
export const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

/** @param {Hit} hit @returns the file name of the uri */
function nameOf(hit) {
  const last = hit.uri.split(/[?#]/)[0].split(/[/\\]/).filter(Boolean).pop() ?? hit.uri;
  try {
    return hit.uri.includes("://") ? decodeURIComponent(last) : last;
  } catch {
    return last;
  }
}

/** @param {Hit} hit */
const labelOf = (hit) => (hit.text === null ? nameOf(hit) : hit.text);

/** @param {Hit} hit @returns {"up" | "down" | "same" | null} null: the cross-encoder did not rerank it */
function moveOf(hit) {
  if (hit.ce_score === null) return null;
  return hit.rank < hit.be_rank ? "up" : hit.rank > hit.be_rank ? "down" : "same";
}

/** @param {Hit} hit @returns `▲ 5`, `▼ 2` or `=` */
function steps(hit) {
  const move = moveOf(hit);
  return move === "same" ? "=" : `${move === "up" ? "▲" : "▼"} ${Math.abs(hit.be_rank - hit.rank)}`;
}

/** @param {unknown} value of a metadata field */
const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// ---- The view ----

/** Shows results in an element, one at a time. */
export class ResultView {
  /**
   * @param {HTMLElement} root
   * @param {{limit?: number, view?: View, showImage: ShowImage, onView?: (view: View) => void}} options
   */
  constructor(root, { limit = 24, view = "coop", showImage, onView = () => {} }) {
    this.limit = limit;
    this.view = view;
    this.showImage = showImage;
    this.onView = onView;
    /** @type {Result | null} */
    this.result = null;
    /** @type {Map<string, HTMLElement>} the card of each hit, made when it is first seen */
    this.cards = new Map();
    /** @type {Hit[]} in the order on the page */
    this.order = [];

    this.notice = element("p", { class: "notice", hidden: true });
    this.story = element("p", { class: "story" });
    this.timings = element("div", { class: "timings" });
    this.switch = element(
      "fieldset",
      { class: "switch" },
      element("legend", { class: "hidden", text: "Order" }),
      ...["be", "coop"].map((name) => this.#choice(name)),
    );
    this.grid = element("ol", {
      class: "grid",
      "aria-label": "Results",
      onkeydown: (event) => this.#move(event),
      onfocusin: (event) => this.#rove(event),
    });
    this.details = new Details(this);
    root.replaceChildren(
      this.notice,
      element("div", { class: "toolbar" }, this.switch, this.story, this.timings),
      this.grid,
      this.details.dialog,
    );
    this.root = root;
    root.classList.add("results");
    root.hidden = true;
  }

  /** @param {Result} result */
  show(result) {
    this.details.close();
    this.result = result;
    this.cards.clear();
    this.grid.classList.toggle("texts", result.kind === "text");
    this.root.hidden = result.hits.length === 0;
    this.notice.hidden = result.reranked || result.hits.length === 0;
    this.notice.replaceChildren(
      icon("M12 8v5", "M12 16.5v.01", "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18z"),
      element("span", {}, element("b", { text: this.#degradedTitle() }), ` ${sentence(result.reason ?? "")}`),
    );
    this.switch.disabled = result.reranked_count === 0;
    this.switch.title = this.switch.disabled ? "The cross-encoder reranked nothing: there is one order only" : "";
    this.#arrange();
  }

  /** Add the hits of the next page. @param {Result} page */
  add(page) {
    const result = /** @type {Result} */ (this.result);
    result.hits.push(...page.hits);
    this.#arrange();
  }

  /** Forget the result. */
  clear() {
    this.details.close();
    this.result = null;
    this.root.hidden = true;
  }

  /** @param {View} view */
  setView(view) {
    this.view = view;
    this.#arrange();
  }

  /** @param {number} limit */
  setLimit(limit) {
    this.limit = limit;
    this.#arrange();
  }

  /** One sentence on the result. */
  get summary() {
    const { candidates, reranked_count, hits } = /** @type {Result} */ (this.result);
    const first = hits.find((hit) => hit.rank === 1);
    const moved = first && moveOf(first) === "up" && this.view === "coop" ? ` The first was BE ${first.be_rank}.` : "";
    return `${count(candidates, "candidate")}, ${reranked_count.toLocaleString("en")} reranked.${moved}`;
  }

  /** @param {Hit} hit @returns its place in the order on the page, from 1 */
  place(hit) {
    return this.view === "be" ? hit.be_rank : hit.rank;
  }

  #degradedTitle() {
    const { reranked_count } = /** @type {Result} */ (this.result);
    return reranked_count ? "Partly reranked." : "In the bi-encoder’s order.";
  }

  /** @param {string} name */
  #choice(name) {
    const choose = () => {
      this.setView(/** @type {View} */ (name));
      this.onView(this.view);
    };
    const input = element("input", { type: "radio", name: "view", value: name, onchange: choose });
    return element("label", {}, input, element("span", { text: NAMES[name] }));
  }

  /** Put the cards of the first hits of the chosen order on the page. */
  #arrange() {
    const { result } = this;
    for (const input of this.switch.querySelectorAll("input"))
      input.checked = input.value === (result?.reranked_count === 0 ? "be" : this.view);
    if (!result) return;
    this.order = [...result.hits].sort((a, b) => this.place(a) - this.place(b)).slice(0, this.limit);
    this.grid.replaceChildren(...this.order.map((hit) => this.#card(hit)));
    this.grid.querySelectorAll("button").forEach((button, i) => (button.tabIndex = i === 0 ? 0 : -1));
    this.story.textContent = this.summary;
    this.timings.replaceChildren(...timingBar(result, this.view));
  }

  /** @param {Hit} hit */
  #card(hit) {
    let card = this.cards.get(hit.id);
    if (!card) {
      const button = element(
        "button",
        { type: "button", onclick: () => this.details.open(hit) },
        element("span", { class: "place" }),
        hit.text === null ? this.frame(hit, SMALL) : element("span", { class: "words", dir: "auto", text: hit.text }),
        moveLine(hit),
        matchLine(hit),
        hit.text === null && element("bdi", { class: "name", text: nameOf(hit), title: hit.uri }),
      );
      card = element("li", { class: "card" }, button);
      this.cards.set(hit.id, card);
    }
    const button = /** @type {HTMLElement} */ (card.firstChild);
    /** @type {HTMLElement} */ (button.firstChild).textContent = String(this.place(hit));
    button.setAttribute("aria-label", spoken(hit, this.place(hit)));
    return card;
  }

  /**
   * The image of a hit, or an icon and the uri if it cannot be shown.
   * @param {Hit} hit
   * @param {number} size
   */
  frame(hit, size) {
    const frame = element("span", { class: "frame" });
    const missing = () => frame.replaceChildren(element("span", { class: "missing" }, icon(...NO_IMAGE), breakable(hit.uri)));
    if (hit.thumbnail === null) missing();
    else {
      const img = element("img", {
        alt: labelOf(hit),
        loading: "lazy",
        decoding: "async",
        onerror: missing,
        onload: () => mat(img, frame),
      });
      frame.append(img);
      this.showImage(img, hit, size);
    }
    return frame;
  }

  /** Arrow keys, Home and End in the grid. @param {KeyboardEvent} event */
  #move(event) {
    const buttons = [...this.grid.querySelectorAll("button")];
    const here = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const columns = buttons.filter((b) => b.offsetTop === buttons[0].offsetTop).length;
    const targets = {
      ArrowLeft: here - 1,
      ArrowRight: here + 1,
      ArrowUp: here - columns,
      ArrowDown: here + columns,
      Home: 0,
      End: buttons.length - 1,
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    buttons[targets[event.key]]?.focus();
  }

  /** The card with the focus is the one that Tab comes back to. @param {FocusEvent} event */
  #rove(event) {
    for (const button of this.grid.querySelectorAll("button")) button.tabIndex = button === event.target ? 0 : -1;
  }
}

// ---- Parts of a card ----

/**
 * An image far from the shape of its frame is shown whole, on the colour of its own left edge.
 * @param {HTMLImageElement} img
 * @param {HTMLElement} frame
 */
function mat(img, frame) {
  const ratio = ((img.naturalWidth / img.naturalHeight) * frame.clientHeight) / frame.clientWidth;
  if (ratio > 0.8 && ratio < 1.6) return;
  img.classList.add("whole");
  const samples = Object.assign(document.createElement("canvas"), { width: 1, height: 16 });
  const context = samples.getContext("2d");
  if (!context) return;
  context.drawImage(img, 0, 0, 2, img.naturalHeight, 0, 0, 1, samples.height);
  const pixels = context.getImageData(0, 0, 1, samples.height).data;
  const [red, green, blue] = [0, 1, 2].map(
    (channel) => pixels.filter((_, i) => i % 4 === channel).reduce((sum, v) => sum + v, 0) / samples.height,
  );
  frame.style.backgroundColor = Math.min(red, green, blue) > NEARLY_WHITE ? "white" : `rgb(${red} ${green} ${blue})`;
}

/** @param {string} uri @returns it, with line breaks after slashes where there must be any */
function breakable(uri) {
  const whole = element("bdi");
  for (const part of uri.split(/(?<=[/\\])/)) whole.append(part, element("wbr"));
  return whole;
}

/** @param {string} text */
function sentence(text) {
  const trimmed = text.trim().replace(/\.$/, "");
  return trimmed && `${trimmed[0].toUpperCase()}${trimmed.slice(1)}.`;
}

/** @param {Hit} hit */
function moveLine(hit) {
  const move = moveOf(hit);
  if (move === null) return element("span", { class: "move", text: `BE ${hit.be_rank}` });
  return element(
    "span",
    { class: `move ${move}` },
    element("span", { text: `BE ${hit.be_rank} → Coop ${hit.rank}` }),
    " ",
    element("b", { text: steps(hit) }),
  );
}

/** @param {Hit} hit */
function matchLine(hit) {
  if (hit.ce_score === null)
    return element(
      "span",
      { class: "match" },
      element("b", { text: hit.be_score.toFixed(3) }),
      " ",
      element("small", { text: "cosine" }),
    );
  const fill = element("span");
  fill.style.inlineSize = percent(hit.ce_score).replace(" ", "");
  return element(
    "span",
    { class: "match" },
    element("b", { text: percent(hit.ce_score) }),
    " ",
    element("small", { text: "match" }),
    element("span", { class: "meter" }, fill),
  );
}

/** @param {Hit} hit @param {number} place */
function spoken(hit, place) {
  const match =
    hit.ce_score === null
      ? `cosine ${hit.be_score.toFixed(3)}`
      : `match ${percent(hit.ce_score)}, bi-encoder rank ${hit.be_rank}, Coop rank ${hit.rank}`;
  return `${place}: ${labelOf(hit)}, ${match}`;
}

/** @param {Result} result @param {View} view */
function timingBar({ timings, reranked_count }, view) {
  const unused = view === "be" && reranked_count > 0;
  const stages = { encode: timings.encode_ms, retrieve: timings.retrieve_ms, rerank: timings.rerank_ms };
  const bar = element("div", { class: "bar", "aria-hidden": "true" });
  const keys = element("ul");
  for (const [name, ms] of Object.entries(stages)) {
    const state = unused && name === "rerank" ? " unused" : "";
    const part = element("span", { class: name + state });
    part.style.flexGrow = String(ms);
    bar.append(part);
    keys.append(element("li", { class: name + state, text: `${name} ${milliseconds(ms)}` }));
  }
  const total = unused ? timings.total_ms - timings.rerank_ms : timings.total_ms;
  keys.append(element("li", { class: "total", text: `total ${milliseconds(total)}` }));
  return [bar, keys];
}

// ---- Details of one hit ----

class Details {
  /** @param {ResultView} view */
  constructor(view) {
    this.view = view;
    /** @type {Hit | null} */
    this.hit = null;
    this.title = element("h2", { id: "details-title" });
    this.position = element("span", { class: "soft" });
    this.previous = element(
      "button",
      { type: "button", class: "icon", "aria-label": "Previous", title: "Previous (left arrow)", onclick: () => this.#step(-1) },
      icon("M15 5l-7 7 7 7"),
    );
    this.next = element(
      "button",
      { type: "button", class: "icon", "aria-label": "Next", title: "Next (right arrow)", onclick: () => this.#step(1) },
      icon("M9 5l7 7-7 7"),
    );
    const close = element(
      "button",
      { type: "button", class: "icon", "aria-label": "Close", title: "Close (Esc)", onclick: () => this.close() },
      icon("M6 6l12 12", "M18 6 6 18"),
    );
    this.image = element("div", { class: "large" });
    this.facts = element("div", { class: "facts" });
    this.dialog = element(
      "dialog",
      {
        class: "details",
        "aria-labelledby": "details-title",
        onkeydown: (event) => this.#key(event),
        onclose: () => this.#closed(),
        onclick: (event) => event.target === this.dialog && this.close(),
      },
      element("header", {}, this.title, element("nav", { "aria-label": "Hits" }, this.previous, this.position, this.next), close),
      element("div", { class: "body" }, this.image, this.facts),
    );
  }

  /** @param {Hit} hit */
  open(hit) {
    this.hit = hit;
    const { order } = this.view;
    const here = order.indexOf(hit);
    this.title.replaceChildren(element("bdi", { text: hit.text === null ? nameOf(hit) : `Text ${this.view.place(hit)}` }));
    this.position.textContent = `${here + 1} of ${order.length}`;
    // Disabling the button that has the focus would lose it, and the arrow keys with it.
    this.previous.setAttribute("aria-disabled", String(here === 0));
    this.next.setAttribute("aria-disabled", String(here === order.length - 1));
    this.image.replaceChildren(
      hit.text === null ? this.view.frame(hit, LARGE) : element("blockquote", { dir: "auto", text: hit.text }),
    );
    this.facts.replaceChildren(...this.#facts(hit));
    if (!this.dialog.open) this.dialog.showModal();
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  /** @param {Hit} hit */
  #facts(hit) {
    const move = moveOf(hit);
    const ranks = [
      element(
        "div",
        {},
        element("dt", { text: "Bi-encoder" }),
        element("dd", {}, element("b", { text: `#${hit.be_rank}` }), ` cosine ${hit.be_score.toFixed(3)}`),
      ),
      element(
        "div",
        {},
        element("dt", { text: "Cross-encoder" }),
        element(
          "dd",
          {},
          element("b", { text: hit.ce_score === null ? "–" : percent(hit.ce_score) }),
          hit.ce_score === null ? " not reranked" : " match probability",
        ),
      ),
      element(
        "div",
        { class: move ?? "" },
        element("dt", { text: "Coop" }),
        element(
          "dd",
          {},
          element("b", { text: `#${hit.rank}` }),
          move && element("span", { class: "step", text: ` ${steps(hit)}` }),
        ),
      ),
    ];
    const about = {
      ...(hit.ce_score !== null && hit.score !== hit.ce_score ? { "match logit + cosine": hit.score.toFixed(3) } : {}),
      uri: hit.uri,
      id: hit.id,
    };
    const fields = Object.entries(hit.fields);
    return [
      element("dl", { class: "ranks" }, ...ranks),
      fields.length > 0 && element("h3", { text: "Metadata" }),
      fields.length > 0 && pairs(fields),
      element("h3", { text: "Source" }),
      pairs(Object.entries(about)),
      element("p", { class: "actions" }, ...actions(hit)),
    ].filter(Boolean);
  }

  /** @param {number} by */
  #step(by) {
    const hit = this.view.order[this.view.order.indexOf(/** @type {Hit} */ (this.hit)) + by];
    if (hit) this.open(hit);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.#step(by);
  }

  /** The focus goes to the card of the hit that was seen last. */
  #closed() {
    const card = this.hit && this.view.cards.get(this.hit.id);
    if (card?.isConnected) /** @type {HTMLElement} */ (card.firstChild).focus();
  }
}

/** @param {[string, unknown][]} entries */
function pairs(entries) {
  return element(
    "dl",
    { class: "pairs" },
    ...entries.flatMap(([name, value]) => [
      element("dt", {}, element("bdi", { text: name })),
      element("dd", {}, element("bdi", { text: shown(value) })),
    ]),
  );
}

/** @param {Hit} hit */
function* actions(hit) {
  if (navigator.clipboard) {
    const copy = element("button", {
      type: "button",
      text: "Copy uri",
      onclick: () =>
        navigator.clipboard.writeText(hit.uri).then(
          () => (copy.textContent = "Copied"),
          () => (copy.textContent = "Not allowed"),
        ),
    });
    yield copy;
  }
  // Only web addresses: a row may hold any scheme, javascript: among them.
  if (/^https?:\/\//i.test(hit.uri))
    yield element("a", { href: hit.uri, target: "_blank", rel: "noopener noreferrer", text: "Open original" });
}
