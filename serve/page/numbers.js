/* Small things about numbers. */
export const mix = (a, b, part) => a + (b - a) * part;
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const linspace = (low, high, count) => Array.from({ length: count }, (_, i) => mix(low, high, i / (count - 1)));
export const asList = (value) => Array.isArray(value) ? value : [value];
export const round = (value, digits = 4) => Number(value.toPrecision(digits));

/* A number as a person writes it, to three digits. */
export function words(value, digits = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return (size >= 0.001 && size < 1e5 ? String(round(value, digits)) : value.toExponential(1)).replace("-", "−");
}
export const percent = (part) => part < 1e-4 ? "less than 0.01 %" : `${words(100 * part)} %`;

/* A round number of about a hundredth of a range: how far an arrow key moves something. */
export function stepOf(low, high) {
  const rough = (high - low) / 100, unit = 10 ** Math.floor(Math.log10(rough));
  return round([1, 2, 5, 10].find((factor) => factor * unit >= rough * 0.999) * unit);
}

/* Round numbers between the ends, at most about five. */
export function ticks(low, high) {
  const step = 25 * stepOf(low, high), list = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) list.push(round(k * step, 6));
  return list;
}

/* Values at uniform times, numbers or lists of numbers, at any time between. */
export function atTime(times, values, t) {
  const last = times.length - 1, at = clamp(t / times[last] * last, 0, last) || 0, i = Math.min(Math.floor(at), last - 1), part = at - i;
  const one = (a, b) => mix(a, b, part);
  return Array.isArray(values[0]) ? values[i].map((value, axis) => one(value, values[i + 1][axis])) : one(values[i], values[i + 1]);
}
