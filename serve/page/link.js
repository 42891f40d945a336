/* The state of the page in the fragment of its address, in words that a person can read and change:
   #model=orbitnet&V=q**2&units=own&domain=-1,1&mass=2&q0=0.5&p0=0&B.V=q**4&B.… */
const NAMES = ["A", "B"];

export function encode({ model, problems }) {
  const parts = new URLSearchParams();
  if (model) parts.set("model", model);
  problems.forEach((problem, index) => {
    const put = (key, value) => parts.set(index ? `${NAMES[index]}.${key}` : key, value);
    put("V", problem.expression);
    if (problem.points) put("points", problem.points.map((point) => point.join(":")).join(","));
    put("q0", [problem.q0].flat().join(","));
    put("p0", [problem.p0].flat().join(","));
    if (problem.units !== "own") return;
    put("units", "own");
    put("domain", problem.domain.join(","));
    put("mass", problem.mass);
    if (problem.parameters) put("parameters", problem.parameters);
    if (problem.until !== null) put("until", problem.until);
  });
  return String(parts);
}

/* The inverse; a problem holds what the link gives, and no more. Throws an Error that names what cannot be read. */
export function decode(fragment) {
  const parts = new URLSearchParams(fragment.replace(/^#/, "")), problems = [];
  for (const [index, name] of NAMES.entries()) {
    const prefix = index ? `${name}.` : "", read = (key) => parts.get(prefix + key);
    const numbers = (key, count) => {
      const text = read(key), list = text.split(",").map((part) => part.trim() === "" ? NaN : Number(part));
      if (!list.every(Number.isFinite) || (count && list.length !== count))
        throw new Error(`The link has ${prefix}${key} = ${text.slice(0, 60)}, which is not ${count ? `${count} ${count > 1 ? "numbers" : "number"}` : "a list of numbers"}.`);
      return list;
    };
    const problem = {};
    if (read("V") !== null) problem.expression = read("V").slice(0, 500);
    if (read("points") !== null) problem.points = read("points").split(",").map((pair) => {
      const point = pair.split(":").map(Number);
      if (point.length !== 2 || !point.every(Number.isFinite)) throw new Error(`The link has ${prefix}points with ${pair.slice(0, 60)}, which is not two numbers.`);
      return point;
    });
    for (const key of ["q0", "p0"]) if (read(key) !== null) { const list = numbers(key); problem[key] = list.length > 1 ? list : list[0]; }
    if (read("units") === "own") problem.units = "own";
    if (read("domain") !== null) problem.domain = numbers("domain", 2);
    for (const key of ["mass", "until"]) if (read(key) !== null) [problem[key]] = numbers(key, 1);
    if (read("parameters") !== null) problem.parameters = read("parameters").slice(0, 500);
    if (problem.expression !== undefined || problem.points) problems.push(problem);
    else break;
  }
  return { model: parts.get("model"), problems };
}
