/* The colours of style.css for what is painted on a canvas. */
const scheme = matchMedia("(prefers-color-scheme: dark)");
const read = new Map();
export function colour(name) {
  if (!read.has(name)) read.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return read.get(name);
}
export const rgb = (name) => [1, 3, 5].map((k) => parseInt(colour(name).slice(k, k + 2), 16));
export function onScheme(redraw) { scheme.addEventListener("change", () => { read.clear(); redraw(); }); }
export const still = matchMedia("(prefers-reduced-motion: reduce)");
