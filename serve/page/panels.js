/* The plots that all potentials share: phase portrait, position, momentum, energy and difference from the solver. */
import { draggable, handle, mark, nudgeable } from "./handles.js";
import { atTime, clamp } from "./numbers.js";
import { Plot, styles } from "./plots.js";

const SMALLEST = -8;  // exponent of the least difference that is drawn
const box = (id) => document.querySelector(`#${id} .plot`);
const union = (ranges) => ranges.length ? [Math.min(...ranges.map(([low]) => low)), Math.max(...ranges.map(([, high]) => high))] : [0, 1];
const power = (exponent) => `10${[...String(exponent)].map((digit) => digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;

export class Panels {
  constructor(app) {
    this.app = app;
    const moved = () => this.moveTo(app.clock.t);
    this.position = new Plot(box("position"), { names: ["t", ""], moved });
    this.momentum = new Plot(box("momentum"), { names: ["t", ""], moved });
    this.energy = new Plot(box("energy"), { names: ["t", ""], moved });
    const splits = () => [-8, -6, -4, -2, 0];
    this.difference = new Plot(box("difference"), { names: ["t", ""], moved, yAxis: { splits, values: (_, list) => list.map(power) } });
    this.phase = new Plot(box("phase"), { names: ["q", "p"], moved, paint: (plot, context) => this.#paintPhase(plot, context) });
    this.marks = [];
    this.handles = new Map();
    this.held = false;  // an initial state is dragged in the phase portrait, whose scales wait for its release
    for (const plot of this.overTime) {
      plot.now = mark(plot.layer, "now");
      plot.layer.classList.add("timeline");
      const seek = (event) => { if (event.buttons & 1) app.seek(plot.fromPixels([event.clientX - plot.layer.getBoundingClientRect().left, 0])[0]); };
      plot.layer.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") plot.layer.setPointerCapture(event.pointerId); seek(event); });
      plot.layer.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") seek(event); });
    }
    this.phase.layer.addEventListener("click", (event) => this.#click(event));
  }

  get overTime() { return [this.position, this.momentum, this.energy, this.difference]; }
  get all() { return [...this.overTime, this.phase]; }
  get shown() { return this.app.cards.filter((card) => card.shown); }

  update() {
    const cards = this.shown;
    if (!cards.length) return;
    const x = [0, this.app.clock.end];
    this.#coordinates(this.position, cards, "q", x);
    this.#coordinates(this.momentum, cards, "p", x);
    this.#energies(cards, x);
    const differing = cards.filter((card) => card.differences);
    this.difference.show({
      tables: differing.length ? differing.map((card) => [card.shown.times, card.differences.map((value) => Math.max(Math.log10(value), SMALLEST))]) : [[x]],
      series: differing.map((card) => styles.whole(card.colour)), x, y: [SMALLEST - 0.15, 0.5],
    });
    if (!this.app.isPlane) {
      if (!this.held) this.plane = { x: union(cards.map((card) => card.ranges.q)), y: union(cards.map((card) => card.ranges.p)) };
      this.phase.show({ tables: [[this.plane.x]], series: [], ...this.plane });
    }
    this.#makeMarks();
    this.moveTo(this.app.clock.t);
  }

  #coordinates(plot, cards, name, x) {
    const tables = [], series = [];
    for (const card of cards) {
      const table = [card.shown.times], add = (curve, style) => card.columns(curve[name]).forEach((column, axis) => { table.push(column); series.push(style(axis)); });
      if (card.predicted) add(card.predicted, (axis) => styles.predicted(card.colour, axis));
      if (card.solved) add(card.solved, () => styles.solved());
      tables.push(table);
    }
    plot.show({ tables, series, x, y: union(cards.map((card) => card.ranges[name])) });
  }

  /* Kinetic and potential energy and their sum; of several potentials, or where the mass depends on the place, the sum alone. */
  #energies(cards, x) {
    const tables = [], series = [];
    for (const card of cards.filter((one) => one.energies)) {
      const { whole, kinetic, potential } = card.energies, table = [card.shown.times, whole];
      series.push(styles.whole(card.colour));
      if (kinetic && cards.length === 1) {
        table.push(kinetic, potential);
        series.push(styles.part("kinetic"), styles.part("soft", [2, 3]));
      }
      tables.push(table);
    }
    this.energy.show({ tables: tables.length ? tables : [[x]], series, x, y: union(cards.map((card) => card.ranges.energy)) });
  }

  #paintPhase(plot, context) {
    for (const card of this.shown) {
      if (card.predicted) plot.trace(context, card.predicted.q, card.predicted.p, styles.predicted(card.colour));
      if (card.solved) plot.trace(context, card.solved.q, card.solved.p, styles.solved());
    }
  }

  /* A dot for each potential and coordinate, and a handle for each initial state. */
  #makeMarks() {
    const wanted = this.shown.map((card) => `${card.name}${card.isPlane}`).join();
    if (wanted === this.made) return;
    this.made = wanted;
    for (const { element } of this.marks) element.remove();
    this.marks = [];
    for (const card of this.shown) {
      const dot = (plot, axis) => { const element = mark(plot.layer, `dot ${card.colour}`); this.marks.push({ plot, card, axis, element }); };
      card.columns(card.shown.q).forEach((_, axis) => { dot(this.position, axis); dot(this.momentum, axis); });
      if (card.isPlane) continue;
      if (!this.handles.has(card)) this.handles.set(card, this.#makeHandle(card));
      dot(this.phase, 0);
    }
    for (const [card, element] of this.handles) if (!this.app.cards.includes(card)) { element.remove(); this.handles.delete(card); }
  }

  #makeHandle(card) {
    const element = handle(this.phase.layer, `start ${card.colour}`, "Initial state");
    const may = () => card.mayMove(), done = () => { this.held = false; card.release(); };
    const change = (q, p) => card.change({ q0: card.clampPlace(q), p0: card.snapMomentum(clamp(p, ...this.phase.y)) });
    draggable(element, this.phase.layer, { may, done, move: (spot) => { this.held = true; change(...this.phase.fromPixels(spot)); } });
    nudgeable(element, { may, done, move: ([right, up]) => change(card.problem.q0 + right * card.steps.q, card.problem.p0 + up * card.steps.p) });
    return element;
  }

  #click(event) {
    const [card] = this.shown;
    if (this.shown.length !== 1 || event.target !== this.phase.layer || !card.mayMove()) return;
    const edge = this.phase.layer.getBoundingClientRect(), [q, p] = this.phase.fromPixels([event.clientX - edge.left, event.clientY - edge.top]);
    card.change({ q0: card.clampPlace(q), p0: card.snapMomentum(p) });
    card.release();
  }

  moveTo(t) {
    for (const plot of this.overTime) if (plot.u) plot.now.placeAt(plot.toPixels(t, plot.y[0])[0], 0);
    for (const { plot, card, axis, element } of this.marks) {
      if (!card.shown || !plot.u) continue;
      const { times, q, p } = card.shown, here = Math.min(t, times.at(-1)), at = (values) => [atTime(times, values, here)].flat()[axis];
      const spot = plot === this.phase ? [at(q), at(p)] : [here, at(plot === this.position ? q : p)];
      element.placeAt(...plot.toPixels(...spot));
    }
    for (const [card, element] of this.handles) {
      const { q0, p0 } = card.problem, usable = Number.isFinite(q0) && Number.isFinite(p0) && this.phase.u;
      element.hidden = !usable;
      element.classList.toggle("locked", card.locked);
      if (!usable) continue;
      element.placeAt(...this.phase.toPixels(q0, p0));
      element.setAttribute("aria-label", `Initial state ${card.name}, q ${q0}, p ${p0}; arrow keys change it`);
    }
  }
}
