/* One potential: its form, what it asks the server, and what it shows. Plots that potentials share are in panels.js. */
import { OWN_EXAMPLES } from "./examples.js";
import { atTime, clamp, linspace, mix, percent, round, stepOf, words } from "./numbers.js";
import { findBoundedProblem } from "./remedies.js";
import { post, Refused } from "./server.js";
import { Surface } from "./surface.js";
import { Well } from "./well.js";

const NUM_TIMES = 201, PERIODS = 2, TIMES_PER_PERIOD = 160, MOST_TIMES = 4001;
const DOUBTFUL = 0.05;  // a difference from the solver that is too large to be called small
const CONSERVED = 0.01;  // an energy drift that is small
const UNSEEN = 0.01;  // a part of the energy scale by which V may differ between the sensors
const FLAT = 0.05;  // part of the natural scale of momentum and energy that fills a plot at most: a particle at rest must look at rest

export class Card {
  constructor(app, name, problem) {
    this.app = app;
    this.name = name;
    this.colour = name.toLowerCase();
    this.model = app.model;
    this.isPlane = app.isPlane;
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.element.dataset.name = name;
    this.levels = this.$(".levels");
    this.field = this.shown = this.reference = this.raw = null;
    this.energy = null;  // of the initial state
    this.isOld = false;  // what is shown belongs to another problem than the form says
    this.problem = { ...this.#freshProblem(), ...problem };
    if (this.isPlane || !app.allowsOwnUnits) this.problem = { ...this.problem, units: "model", ...(problem?.units === "own" && { q0: this.#start[0], p0: this.#start[1] }) };
    this.#fillForm();
    this.#listen();
    document.getElementById("cards").append(this.element);
    this.stage = this.isPlane ? new Surface(this, this.$(".stage")) : new Well(this, this.$(".stage"));
    this.writeForm();
  }

  $(selector) { return this.element.querySelector(selector); }
  remove() { this.control?.abort(); this.element.remove(); }

  /* The initial state that the model starts from, or a typical one. */
  get #start() {
    const one = (list) => this.isPlane ? list : list[0];
    if (this.model.initial_state) return this.model.initial_state.map(one);
    const round2 = (value, [low, high]) => { const step = stepOf(low, high); return round(Math.round(value / step) * step); };
    const q0 = this.model.domain.map(([low, high], axis) => this.isPlane ? round2(mix(low, high, [0.35, 0.4][axis]), [low, high]) : low <= 0 && high >= 0 ? 0 : low);
    return [one(q0), this.isPlane ? [0.2, -0.1] : 0];
  }
  #freshProblem() {
    const [q0, p0] = this.#start, expression = Object.values(this.model.examples)[0] || "";
    return { units: "model", expression, points: null, q0, p0, domain: [...this.model.domain[0]], mass: 1, parameters: "", until: null };
  }

  get isOwn() { return this.problem.units === "own"; }
  get mass() { return this.isOwn ? this.problem.mass || 1 : 1; }
  get locked() { return !this.isOwn && this.app.isLocked; }
  get isComplete() { return [this.problem.q0, this.problem.p0].flat().every(Number.isFinite); }
  get domain() { return this.isOwn ? this.problem.domain : this.model.domain[0]; }
  get steps() { const [low, high] = this.domain; return { q: stepOf(low, high), p: stepOf(0, 4 * this.momentumScale) }; }
  get stepsOf() { return this.model.domain.map(([low, high]) => stepOf(low, high)); }
  clampPlace(q) { const [low, high] = this.domain, step = stepOf(low, high) / 10; return clamp(round(Math.round(q / step) * step, 6), low, high); }
  snapMomentum(p) { const step = this.steps.p / 10; return round(Math.round(p / step) * step, 6); }
  columns(values) { return this.isPlane ? [0, 1].map((axis) => values.map((value) => value[axis])) : [values]; }

  /* V between the places of the server's grid, by linear interpolation along each axis. */
  valueAt(q) {
    const v = this.field.values, last = v.length - 1;
    const [[i, a], [j, b]] = [0, 1].map((axis) => {
      if (axis && !this.isPlane) return [0, 0];
      const [low, high] = this.field.domain[axis], at = clamp((this.isPlane ? q[axis] : q) - low, 0, high - low) / (high - low) * last, k = Math.min(Math.floor(at), last - 1);
      return [k, at - k];
    });
    if (!this.isPlane) return mix(v[i], v[i + 1], a);
    return mix(mix(v[i][j], v[i][j + 1], b), mix(v[i + 1][j], v[i + 1][j + 1], b), a);
  }

  /* The form. */
  #fillForm() {
    const expression = this.$(".expression"), what = this.$(".what");
    expression.id = `expression-${this.name}`;
    what.htmlFor = expression.id;
    const hasFormula = Object.keys(this.model.fields).length === 1;
    what.innerHTML = hasFormula ? `<b>${this.name}</b> <i>V</i>(<i>q</i>${this.isPlane ? "₁, <i>q</i>₂" : ""}) =` : `<b>${this.name}</b> Parameters`;
    this.inputs = {};
    for (const [name, title] of [["q0", "Position"], ["p0", "Momentum"]]) this.inputs[name] = this.model.domain.map((range, axis) => {
      const label = Object.assign(document.createElement("label"), { className: "field" });
      label.innerHTML = `<span><i>${name[0]}</i>${this.isPlane ? "₁₂"[axis] : "₀"}</span> `;
      const input = Object.assign(document.createElement("input"), { type: "number", name: this.isPlane ? `${name}-${axis + 1}` : name, step: "any" });
      input.setAttribute("aria-label", `${title} at t = 0${this.isPlane ? `, coordinate ${axis + 1}` : ""}`);
      label.append(input);
      this.$(".state").append(label);
      return input;
    });
    this.$(".units").hidden = this.isPlane || !this.app.allowsOwnUnits;
  }

  get #examples() { return this.isOwn ? OWN_EXAMPLES : Object.fromEntries(Object.entries(this.model.examples).map(([name, expression]) => [name, { expression }])); }
  #offerExamples() {
    const picks = this.$(".picks"), list = Object.entries(this.#examples);
    picks.replaceChildren(...list.map(([name, example]) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      const taken = Object.entries(example).every(([key, value]) => String(this.problem[key]) === String(value)) && !this.problem.points;
      button.setAttribute("aria-pressed", String(taken));
      button.addEventListener("click", () => { this.problem = { ...this.problem, until: null, ...example, points: null }; this.writeForm(); this.ask(); });
      return button;
    }));
    if (!this.problem.points) return;
    const back = Object.assign(document.createElement("button"), { type: "button", className: "back", textContent: "Back to the formula" });
    back.addEventListener("click", () => { this.problem.points = null; this.writeForm(); this.ask(); });
    picks.append(back);
  }

  writeForm() {
    const { problem } = this;
    const expression = this.$(".expression");
    expression.value = problem.points ? "" : problem.expression;
    expression.placeholder = problem.points ? "drawn by hand" : "";
    this.$(".units-choice").value = problem.units;
    this.$(".own").hidden = !this.isOwn;
    for (const [selector, value] of [[".low", problem.domain[0]], [".high", problem.domain[1]], [".mass", problem.mass], [".until", problem.until ?? ""], [".parameters", problem.parameters]]) this.$(selector).value = value ?? "";
    this.#writeState();
    this.#offerExamples();
    this.#explainLock();
  }
  #writeState() {
    for (const name of ["q0", "p0"]) this.inputs[name].forEach((input, axis) => {
      const value = [this.problem[name]].flat()[axis];
      if (document.activeElement !== input || Number(input.value) !== value) input.value = value ?? "";
      input.disabled = this.locked;
      const [low, high] = this.isPlane ? this.model.domain[axis] : this.domain;
      input.step = name === "q0" ? stepOf(low, high) || "any" : "any";
      if (input.step !== "any") [input.min, input.max] = name === "q0" ? [Math.ceil(low / input.step - 1e-9) * input.step, high] : ["", ""];
    });
  }

  readForm() {
    const number = (input) => input.value.trim() === "" ? null : Number(input.value), { problem } = this;
    const text = this.$(".expression").value;
    if (!problem.points || text.trim()) Object.assign(problem, { expression: text, points: null });
    for (const name of ["q0", "p0"]) { const list = this.inputs[name].map(number); problem[name] = this.isPlane ? list : list[0]; }
    Object.assign(problem, { domain: [number(this.$(".low")), number(this.$(".high"))], mass: number(this.$(".mass")), until: number(this.$(".until")), parameters: this.$(".parameters").value });
  }

  #listen() {
    this.$("form").addEventListener("submit", (event) => { event.preventDefault(); this.readForm(); this.writeForm(); this.ask(); });
    for (const input of this.element.querySelectorAll(".own input")) input.addEventListener("change", () => { this.readForm(); this.writeForm(); this.ask(); });
    for (const input of [...this.inputs.q0, ...this.inputs.p0]) {
      input.addEventListener("input", () => { this.readForm(); if (this.isComplete) this.#follow(); });
      input.addEventListener("change", () => { this.readForm(); this.ask(); });
    }
    this.$(".units-choice").addEventListener("change", (event) => { this.setUnits(event.target.value); this.ask(); });
  }

  /* The same potential in other units: what moved between the walls of the model then moves in its domain. */
  setUnits(units) {
    const [q0, p0] = this.#start, inModel = String(this.problem.domain) === String(this.model.domain[0]);
    this.problem = { ...this.problem, units };
    if (units === "model") {
      Object.assign(this.problem, { q0, p0, domain: [...this.model.domain[0]], mass: 1, parameters: "", until: null });
      if (!inModel) Object.assign(this.problem, { expression: this.#freshProblem().expression, points: null });
    }
    this.writeForm();
  }

  /* Why the initial state cannot be changed, and what to do. */
  #explainLock() {
    const note = this.$(".note");
    note.hidden = !this.locked;
    if (!this.locked) return;
    const button = (text, act) => { const one = Object.assign(document.createElement("button"), { type: "button", textContent: text }); one.addEventListener("click", act); return one; };
    const others = this.app.freeModels.map((other) => button(`use ${other}`, () => this.app.choose(other)));
    const own = this.app.allowsOwnUnits ? [button("use your own units", () => { this.setUnits("own"); this.ask(); })] : [];
    const remedy = own.length || others.length ? " To start elsewhere, " : " To start elsewhere, serve a model that was trained for any.";
    const list = [...own, ...others].flatMap((one, k) => k ? [" or ", one] : [one]);
    note.replaceChildren(`Fixed: this model was trained for this one initial state.${remedy}`, ...list);
  }
  /* Whether the initial state may be moved; if not, the reason is pointed at. */
  mayMove() {
    if (!this.locked) return this.isComplete;
    const note = this.$(".note");
    note.classList.remove("flash");
    requestAnimationFrame(() => note.classList.add("flash"));
    return false;
  }

  /* Moved by hand: the form follows, and the motion as fast as the server responds. */
  change(part) {
    if (part.q0 !== undefined && this.isPlane) part.q0 = part.q0.map((value) => round(Math.round(value * 1000) / 1000, 6));
    if (part.p0 !== undefined && this.isPlane) part.p0 = part.p0.map((value) => round(Math.round(value * 1000) / 1000, 6));
    Object.assign(this.problem, part);
    this.app.clock.play(false);
    this.app.clock.set(0);
    this.#writeState();
    this.#follow();
  }
  drawPoints(points) {
    this.problem.points = points;
    if (this.$(".expression").value) this.writeForm();
    this.askSoon();
  }
  #follow() {
    if (this.field && this.isComplete) this.energy = this.model.has_unit_mass || this.isOwn ? this.#energyOfStart() : null;
    this.stage.update();
    this.askSoon();
  }
  #energyOfStart() { return this.valueAt(this.problem.q0) + [this.problem.p0].flat().reduce((sum, p) => sum + p * p / (2 * this.mass), 0); }
  release() { this.ask(); }

  /* What is asked. */
  #parameters() {
    const parameters = {};
    for (const part of this.problem.parameters.split(",").filter((one) => one.trim())) {
      const [name, value, more] = part.split("=");
      if (!name?.trim() || !value?.trim() || more !== undefined || !Number.isFinite(Number(value))) throw new Refused(`parameters has “${part.trim()}”; give each as a name and a number, such as D=4.6, a=1.9`);
      parameters[name.trim()] = Number(value);
    }
    return parameters;
  }
  /* V as /v1/potential takes it, with the fields of other units. */
  potentialBody() {
    const { problem } = this, body = problem.points ? { table: problem.points } : { expression: problem.expression };
    if (!this.isOwn) return body;
    for (const [name, value] of [["from", problem.domain[0]], ["to", problem.domain[1]], ["mass", problem.mass]]) if (!Number.isFinite(value)) throw new Refused(`“${name}” is empty; give a number`);
    const parameters = this.#parameters();
    return { ...body, domain: problem.domain, mass: problem.mass, ...(Object.keys(parameters).length && !problem.points && { parameters }) };
  }
  #withState(body) {
    const { q0, p0 } = this.problem, whole = (value) => [value].flat().includes(null) ? null : value;
    return { ...body, q0: whole(q0), p0: whole(p0) };
  }
  /* The problem as /v1/trajectories takes it. A drawn V goes to a model as its sensors. */
  async #problemBody(signal) {
    const body = this.potentialBody();
    if (!this.problem.points || this.isOwn) return this.#withState(body);
    const { values } = (await this.post("v1/potential", { ...body, places: this.model.sensors[0] }, signal)).body;
    return this.#withState({ potential: values });
  }
  post(route, content, signal) { return post(route, { ...content, ...this.app.modelField }, signal); }
  async trajectories(problem, options, signal) {
    const { body, took } = await this.post("v1/trajectories", { trajectories: [problem], ...options }, signal);
    return { trajectory: body.trajectories[0], took, by: body.model.name, threshold: body.model.drift_threshold };
  }

  /* Query times: up to the model's horizon, or in other units as long as is wanted, else two periods of the slower potential. */
  async #times(problem, signal) {
    if (!this.isOwn) return linspace(0, this.model.horizon, NUM_TIMES);
    this.period = (await this.trajectories({ ...problem, times: [0] }, {}, signal)).trajectory.period;
    const { until } = this.problem;
    if (until !== null && !(until > 0)) throw new Refused(`“until t” is ${until}; give a positive number, or nothing`);
    const end = until ?? this.app.automaticEnd();
    return linspace(0, end, clamp(Math.ceil(TIMES_PER_PERIOD * end / this.period) + 1, 2 * NUM_TIMES - 1, MOST_TIMES));
  }
  get isAutomatic() { return this.isOwn && this.problem.until === null; }
  get automaticEnd() { return PERIODS * this.period; }

  async #askPotential(signal) {
    const places = this.isPlane ? 65 : 201, body = this.potentialBody();
    return (await this.post("v1/potential", { ...this.#withState(body), places }, signal)).body;
  }
  async #askPrediction(signal) {
    const problem = await this.#problemBody(signal), times = await this.#times(problem, signal), whole = { ...problem, times };
    return { asked: whole, ...await this.trajectories(whole, {}, signal) };
  }

  /* V and the motion for what the form says. While something is dragged (`live`) the solver and the sentences wait for its release. */
  async ask(live = false) {
    if (!live) this.changed = false;
    this.control?.abort();
    const { signal } = this.control = new AbortController(), { control } = this;
    const { points } = this.problem, needsField = !live || points !== this.fieldPoints;
    try {
      const [field, prediction] = await Promise.allSettled([needsField ? this.#askPotential(signal) : this.field, this.#askPrediction(signal)]);
      if (this.control !== control) return;
      if (field.status === "fulfilled") {
        this.field = field.value;
        this.fieldPoints = points;
        if (!live) this.energy = field.value.energy;
        else if (this.isComplete) this.energy = this.#energyOfStart();
      }
      const refused = [prediction, field].find((one) => one.status === "rejected")?.reason;
      if (refused) { this.#age(); this.stage.update(); if (!live) this.#fail(refused, field.status === "fulfilled"); return; }
      this.#show(prediction.value, live);
      if (live) return;
      this.#recover();
      this.app.remember();
      await this.#askReference(prediction.value, signal, control);
    } catch (error) {
      if (error.name !== "AbortError" && this.control === control) this.#fail(error, false);
    } finally {
      if (this.control === control) {
        this.control = null;
        if (!live) this.app.rest();
      }
    }
  }

  async askSoon() {
    this.changed = true;
    if (this.asking) return;
    this.asking = true;
    while (this.changed) { this.changed = false; await this.ask(true); }
    this.asking = false;
  }
  get isBusy() { return Boolean(this.asking || this.control); }

  #show({ trajectory, took, by, threshold }, live) {
    Object.assign(this, { shown: trajectory, took, by, threshold });
    this.reference = this.raw = null;
    this.isOld = false;
    this.element.classList.remove("old");
    if (trajectory.energy !== undefined) this.energy = trajectory.energy;
    this.stage.update();
    this.app.update();
    if (live) this.$(".status").classList.add("waits");
    else this.#showStatus();
  }

  /* The solver's solution over the prediction; where it replaced the prediction, the prediction after all. */
  async #askReference({ asked, trajectory }, signal, control) {
    const raw = trajectory.trust.source === "solver" ? this.trajectories(asked, { verify: "none" }, signal).catch((error) => { if (error instanceof Refused) return null; throw error; }) : null;
    const [found, rejected] = await Promise.all([this.trajectories(asked, { reference: true }, signal), raw]);
    if (this.control !== control) return;
    this.reference = found.trajectory.reference;
    this.raw = rejected && rejected.trajectory.trust.source === "model" ? rejected.trajectory : null;
    this.stage.place();
    this.app.update();
    this.#showStatus();
  }

  /* Curves. */
  get predicted() { return this.raw || (this.shown.trust.source === "model" ? this.shown : null); }
  get solved() { return this.reference?.q ? this.reference : this.shown.trust.source === "solver" ? this.shown : null; }
  /* Natural scales: a particle that rests or nearly rests is drawn on the scale of what V could do to it. */
  get visibleHeight() {
    const all = this.field.values.flat().sort((a, b) => a - b), low = all[0];
    return Math.max(Math.min(all.at(-1) - low, 1.6 * (all[Math.floor(0.8 * all.length)] - low)), 1e-12);
  }
  get depth() {
    const low = Math.min(...this.field.values.flat()), energy = this.energy ?? low;
    return Math.max(energy - low, FLAT * this.visibleHeight);
  }
  get momentumScale() { return this.field ? Math.sqrt(2 * this.mass * this.depth) : 1; }
  get widthScale() {
    if (!this.shown.turning_points) return Math.max(...this.model.domain.map(([low, high]) => high - low));
    const [left, right] = this.shown.turning_points;
    return right - left;
  }
  get ranges() {
    const spread = (name) => [this.predicted, this.solved, this.shown].filter(Boolean).flatMap((curve) => curve[name].flat());
    const wide = (low, high, values, pad) => { for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); } return [low - pad * (high - low), high + pad * (high - low)]; };
    const [low, high] = this.shown.turning_points || [Math.min(...this.model.domain.map(([one]) => one)), Math.max(...this.model.domain.map(([, other]) => other))];
    const floor = FLAT / 2 * (this.domain[1] - this.domain[0]), middle = (low + high) / 2, half = Math.max((high - low) / 2, floor);
    const momentum = this.momentumScale, bottom = Math.min(...this.field.values.flat()), top = Math.max(this.energy ?? bottom, bottom) - bottom;
    return {
      q: wide(middle - half, middle + half, spread("q"), 0.05),
      p: wide(-momentum, momentum, spread("p"), 0.05),
      energy: this.energies && !this.energies.kinetic ? wide(bottom, bottom + Math.max(top, this.depth), this.energies.whole, 0.08)
        : wide(Math.min(bottom, 0), Math.max(bottom + Math.max(top, this.depth), this.depth), this.energies ? this.energies.whole : [], 0.08),
    };
  }
  get energies() {
    const whole = this.reference?.energies;
    if (!whole) return null;
    if (!this.model.has_unit_mass && !this.isOwn) return { whole };
    const kinetic = this.shown.p.map((p) => [p].flat().reduce((sum, one) => sum + one * one / (2 * this.mass), 0));
    return { whole, kinetic, potential: whole.map((value, i) => value - kinetic[i]) };
  }
  /* The largest of the differences of q and p from the solver's, at each time; in other units relative to their ranges. */
  get differences() {
    if (!this.reference?.q || !this.predicted) return null;
    const scale = this.isOwn ? [this.widthScale, this.momentumScale] : [1, 1], { predicted, reference } = this;
    return predicted.q.map((_, i) => Math.max(...["q", "p"].map((name, k) => Math.max(...[predicted[name][i]].flat().map((value, axis) => Math.abs(value - [reference[name][i]].flat()[axis]))) / scale[k])));
  }

  #showStatus() {
    const { trust, period, turning_points: turns, energy } = this.shown, status = this.$(".status"), ms = Math.max(1, Math.round(this.took));
    const off = this.differences ? Math.max(...this.differences) : null, relative = this.isOwn ? " of its range" : "";
    // Red is a real disagreement: a model without a threshold that it could meet is replaced however good it is.
    const acceptsNothing = this.threshold === 0;
    const disagrees = off > DOUBTFUL || (this.reference && off === null && !acceptsNothing);
    const kind = trust.source === "solver" ? (disagrees ? "replaced" : "solved") : off > DOUBTFUL || trust.verdict === "undecided" ? "doubtful" : "good", sentences = [];
    if (trust.source === "solver") sentences.push(acceptsNothing ? `The check of ${this.by} accepts no prediction: no energy drift was found below which its predictions can be trusted. What moves is the solver’s solution.`
      : "The network’s prediction did not pass the check; what moves is the solver’s solution.", off === null ? "" : `The prediction, drawn as a wide line, is off by ${words(off)}${relative}.`);
    else sentences.push(`Predicted by ${this.by}.`, off === null ? "" : `${off > DOUBTFUL && trust.energy_drift < CONSERVED ? "It conserves energy, but differs" : "It differs"} from the solver by at most ${words(off)}${relative} in q or p.`);
    if (trust.energy_drift !== null && trust.source === "model") sentences.push(`Energy drifts by ${percent(trust.energy_drift)} of ${this.isOwn ? "its height above the lowest point" : this.model.energy_scale}.`);
    if (trust.verdict === "undecided") sentences.push("The check could not decide: the difference may be the reference’s own error.");
    if (trust.sensor_error > UNSEEN) sentences.push(`Between the sensors V differs from what the network reads by ${percent(trust.sensor_error)}.`);
    if (period) sentences.push(`Period ${words(period, 5)}, between q = ${words(turns[0], 4)} and ${words(turns[1], 4)}, energy ${words(energy, 4)}.`);
    if (this.reference?.refusal) sentences.push(`There is no solution to compare with: ${this.reference.refusal}.`);
    sentences.push(`Response in ${ms} ms.`);
    status.className = `status ${kind}`;
    status.textContent = sentences.filter(Boolean).join(" ");
  }

  /* What the image has in place of the form. */
  get facts() {
    const { problem } = this, state = ["q", "p"].map((name) => { const value = [problem[`${name}0`]].flat().map((one) => words(one ?? NaN, 6)); return `${name}₀ = ${value.length > 1 ? `(${value.join(", ")})` : value}`; });
    const own = this.isOwn ? [`${words(problem.domain[0] ?? NaN, 6)} ≤ q ≤ ${words(problem.domain[1] ?? NaN, 6)}`, `mass ${words(problem.mass ?? NaN, 6)}`, ...problem.parameters.split(",").map((part) => part.trim()).filter(Boolean)] : [];
    return [...state, ...own].join(", ");
  }

  /* A refusal in the server's words, and what would work instead. */
  #fail(error, canDraw) {
    const box = this.$(".error"), problem = this.problem;
    if (!(error instanceof Refused)) console.error(error);
    this.$(".sentence").textContent = error.message;
    this.$(".remedies").replaceChildren();
    this.$(".expression").setAttribute("aria-invalid", String(/^(expression|potential|table)/.test(error.message)));
    box.hidden = false;
    this.#age();
    this.#offerRemedy(problem, canDraw).catch((reason) => { if (reason.name !== "AbortError") console.error(reason); });
  }
  async #offerRemedy(problem, canDraw) {
    if (this.isPlane || !canDraw || !this.app.allowsOwnUnits) return;
    const found = await findBoundedProblem(this);
    if (this.problem !== problem || this.$(".error").hidden) return;
    const remedies = this.$(".remedies");
    if (!found) { remedies.textContent = "No bounded motion was found in this potential, here or in a wider domain."; return; }
    const button = Object.assign(document.createElement("button"), { type: "button", className: "remedy", textContent: found.words });
    button.addEventListener("click", () => { this.problem = { ...problem, ...found.problem }; this.writeForm(); this.ask(); });
    remedies.replaceChildren(button);
  }
  #recover() {
    this.$(".error").hidden = true;
    this.$(".expression").removeAttribute("aria-invalid");
    this.#offerExamples();
  }
  #age() { this.isOld = true; this.element.classList.add("old"); this.app.update(); }

  moveTo(t) { this.stage.moveTo(this.shown ? Math.min(t, this.shown.times.at(-1)) : t); }
  placeAt(t) { return atTime(this.shown.times, this.shown.q, Math.min(t, this.shown.times.at(-1))); }
}
