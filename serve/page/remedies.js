/* A bounded motion near to what was asked for: the same start in units of your own, else another start, else a wider domain. */
import { linspace, round, words } from "./numbers.js";
import { Refused } from "./server.js";

const WIDER = [1, 2, 4], RISE = 0.6;  // widths of the domain; how far below the rim of the deepest well the particle starts

export async function findBoundedProblem(card) {
  const { domain, q0, p0, points, units } = card.problem;
  for (const factor of points ? [1] : WIDER) {
    const middle = (domain[0] + domain[1]) / 2, half = factor * (domain[1] - domain[0]) / 2, wider = factor > 1 ? [middle - half, middle + half].map((end) => round(end, 6)) : domain;
    const trial = { units: "own", domain: wider, q0, p0: p0 ?? 0 }, where = factor > 1 ? `from ${words(wider[0])} to ${words(wider[1])}` : "";
    const asked = { ...card.potentialBody(), domain: wider };
    if (Number.isFinite(q0) && (units !== "own" || factor > 1) && await works(card, asked, trial))
      return { problem: trial, words: units === "own" ? `Let it move ${where}` : `Predict it in your own units${where && `, ${where}`}` };
    const start = await lowStart(card, asked);
    if (start === null) continue;
    const other = { ...trial, q0: start, p0: 0 };
    if (await works(card, asked, other)) return { problem: other, words: `${units === "own" ? "Start" : "Use your own units and start"} at q₀ = ${words(start)}${where && `, ${where}`}` };
  }
  return null;
}

const unlessRefused = (promise) => promise.catch((error) => { if (error instanceof Refused) return null; throw error; });
const works = (card, asked, { q0, p0 }) => unlessRefused(card.trajectories({ ...asked, q0, p0, times: [0] }, {}));

/* Where a particle at rest swings in the deepest well of V between the ends of its domain; null where V has none. */
async function lowStart(card, asked) {
  const field = await unlessRefused(card.post("v1/potential", { ...asked, places: 201 }));
  if (!field) return null;
  const { values, domain: [range] } = field.body, places = linspace(...range, values.length);
  const inner = values.map((value, i) => i > 0 && i < values.length - 1 && value <= values[i - 1] && value < values[i + 1] ? i : -1).filter((i) => i > 0);
  if (!inner.length) return null;
  const bottom = inner.reduce((best, i) => values[i] < values[best] ? i : best);
  const energy = values[bottom] + RISE * (Math.min(Math.max(...values.slice(0, bottom)), Math.max(...values.slice(bottom + 1))) - values[bottom]);
  let left = bottom;
  while (left > 0 && values[left] < energy) left--;
  return round(places[left] + (energy - values[left]) / (values[left + 1] - values[left]) * (places[left + 1] - places[left]), 5);
}
