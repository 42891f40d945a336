/* Requests, and refusals as sentences. Addresses are relative, so that the endpoint may stand behind a proxy that adds a prefix. */
export class Refused extends Error {
  constructor(sentence, status = 0) { super(sentence); this.status = status; }
}

/* An endpoint may have an API key. It is kept as long as the tab is open. */
const KEY = "neural-hamilton-key";
export const useKey = (key) => sessionStorage.setItem(KEY, key);
function authorization() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

const UNREACHABLE = "The server did not respond. Is it still running?";

async function request(route, options) {
  const sent = performance.now();
  let response;
  try { response = await fetch(route, options); }
  catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(UNREACHABLE);
  }
  if (!response.ok) throw new Refused(await sentenceOf(response), response.status);
  return { body: await response.json(), took: performance.now() - sent };
}

export const get = (route, signal) => request(route, { signal, headers: authorization() });
export const post = (route, content, signal) =>
  request(route, { method: "POST", signal, headers: { "Content-Type": "application/json", ...authorization() }, body: JSON.stringify(content) });

async function sentenceOf(response) {
  if (response.status === 503) return `The server is busy; try again in ${response.headers.get("Retry-After") || "a few"} s.`;
  const text = await response.text();
  try { return String(JSON.parse(text).detail).replaceAll("trajectories[0].", "").replaceAll("trajectories[0]: ", ""); }
  catch { return `The server responded with status ${response.status}. ${text.slice(0, 200)}`; }
}
