/**
 * Talks to the server that the page came from. Paths are relative to the page, so that it also works behind a prefix.
 *
 * @typedef {{title: string, status: number, detail: string, expected: string, run: string, request_id: string}} Problem
 * @typedef {{name: string, kind: "image" | "text" | null, bundle: string, count: number, searchable: boolean, default: boolean}} Collection
 * @typedef {{collection: string, text: string, filter: string, k: number, least: number | null, image: File | null}} Query
 */

const KEY = "milvus-coop-api-key";
const PATIENCE_MS = 60_000;
const LONGEST_WAIT_S = 30;

/** The server cannot be reached, or does not answer. */
export class Away extends Error {}

/** The server says no, and why. */
export class Refused extends Error {
  /** @param {Problem} problem @param {number} retryAfter seconds */
  constructor(problem, retryAfter) {
    super(problem.detail);
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

export class Api {
  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  set key(value) {
    sessionStorage.setItem(KEY, value);
  }

  /** @returns {Promise<Collection[]>} */
  async collections() {
    const response = await this.#ask("v1/collections", {}, AbortSignal.timeout(PATIENCE_MS));
    return (await response.json()).collections;
  }

  /**
   * All k candidates, so that the page can show both orders; or the k hits from `offset` on.
   * @param {Query} query
   * @param {AbortSignal} signal
   * @param {(seconds: number) => void} onBusy told before a busy server is asked once more
   * @param {number} [offset]
   * @returns {Promise<import("./grid.js").Result>}
   */
  async search({ collection, text, filter, k, least, image }, signal, onBusy, offset = 0) {
    const threshold = least === null ? {} : { min_score: least };
    const request = { collection, limit: k, k, offset, filter, output_fields: ["*"], ...threshold };
    const response = await this.#ask(
      "v1/search",
      { method: "POST", ...body(image ? request : { ...request, text }, image) },
      signal,
      onBusy,
    );
    return response.json();
  }

  /** @param {string} path @returns {Promise<Blob>} */
  async image(path) {
    return (await this.#ask(path, {}, AbortSignal.timeout(PATIENCE_MS))).blob();
  }

  /**
   * @param {string} path
   * @param {RequestInit} request
   * @param {AbortSignal} signal
   * @param {(seconds: number) => void} [onBusy]
   */
  async #ask(path, request, signal, onBusy = () => {}) {
    try {
      return await this.#once(path, request, signal);
    } catch (problem) {
      if (!(problem instanceof Refused) || !problem.retryAfter || problem.retryAfter > LONGEST_WAIT_S) throw problem;
      onBusy(problem.retryAfter);
      await pause(problem.retryAfter, signal);
      return this.#once(path, request, signal);
    }
  }

  /**
   * @param {string} path
   * @param {RequestInit} request
   * @param {AbortSignal} signal
   */
  async #once(path, request, signal) {
    const headers = new Headers(request.headers);
    if (this.key) headers.set("Authorization", `Bearer ${this.key}`);
    const patience = AbortSignal.timeout(PATIENCE_MS);
    let response;
    try {
      response = await fetch(local(path), { ...request, headers, signal: AbortSignal.any([signal, patience]) });
    } catch (problem) {
      if (signal.aborted) throw problem;
      throw new Away(patience.aborted ? "It did not answer within a minute." : "No answer came back.");
    }
    if (response.ok) return response;
    throw await refusal(response);
  }
}

/** @param {string} path of this server, with or without a slash in front @returns the same below the page's own folder */
export const local = (path) => new URL(path.replace(/^\/+/, ""), document.baseURI).href;

/** @param {Record<string, unknown>} request @param {File | null} image */
function body(request, image) {
  if (!image) return { body: JSON.stringify(request), headers: { "Content-Type": "application/json" } };
  const form = new FormData();
  for (const [name, value] of Object.entries(request)) form.set(name, String(value)); // lists with commas
  form.set("image", image);
  return { body: form };
}

/** @param {Response} response */
async function refusal(response) {
  const unknown = {
    title: "Error",
    status: response.status,
    detail: `The server answered with status ${response.status}`,
    expected: "",
    run: "",
    request_id: "",
  };
  const problem = await response.json().catch(() => ({}));
  const retryAfter = response.status === 429 ? Number(response.headers.get("Retry-After")) || 0 : 0;
  return new Refused({ ...unknown, ...problem, status: response.status }, retryAfter);
}

/** @param {number} seconds @param {AbortSignal} signal */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
