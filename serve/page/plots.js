/* uPlot in the style of the page: scales that are given and never follow noise, and a layer for marks that move. */
import { clamp } from "./numbers.js";
import { colour } from "./theme.js";

const { uPlot } = window;
const FONT = "11px system-ui, sans-serif", NAME = "italic 13px Georgia, serif";

const axis = (options) => ({
  stroke: () => colour("soft"), font: FONT, gap: 4,
  grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false }, ...options,
});
const apart = (_plot, _axis, _low, _high, height) => clamp(height / 6, 12, 32);  // pixels between ticks: at least three, since steps at most double
const widest = (_, values) => 12 + 6.4 * Math.max(2, ...(values || []).map((value) => String(value ?? "").length));

export class Plot {
  /* `names` of x and y stand at the lower and at the upper left; `yAxis` are options of uPlot; `paint(plot, context)` adds to the curves; `moved()` follows a new size. */
  constructor(box, { names = ["t", ""], yAxis = {}, paint = () => {}, moved = () => {} } = {}) {
    Object.assign(this, { box, names, yAxis, paint, moved, x: [0, 1], y: [0, 1], data: [[0, 1]], series: [] });
    this.layer = Object.assign(document.createElement("div"), { className: "layer" });
    new ResizeObserver(() => this.#resize()).observe(box);
  }

  /* Curves: `tables` are [x, y, y, …], which may have different x; `series` has one style for each y, in order. */
  show({ tables, series, x, y }) {
    [this.x, this.y] = [x, y];
    this.data = tables.length > 1 ? uPlot.join(tables) : tables[0];
    const same = this.u && this.series.length === series.length;
    this.series = series;
    if (!same) return this.#build();
    series.forEach((style, k) => Object.assign(this.u.series[k + 1], styled(style)));
    this.u.batch(() => { this.u.setData(this.data, false); this.#rescale(); });
    this.u.redraw(true, true);
  }

  /* Pixels of a point in the layer, and back. */
  toPixels(x, y) { return this.u ? [this.u.valToPos(x, "x"), this.u.valToPos(y, "y")] : [0, 0]; }
  fromPixels([x, y]) { return [this.u.posToVal(x, "x"), this.u.posToVal(y, "y")]; }
  get width() { return this.u ? this.u.over.clientWidth : 0; }
  get height() { return this.u ? this.u.over.clientHeight : 0; }
  get canvas() { return this.u?.ctx.canvas; }
  redraw() { this.u?.redraw(false, true); }

  /* A curve that need not be a function of x. */
  trace(context, xs, ys, style) {
    const { u } = this, ratio = devicePixelRatio || 1, { left, top, width, height } = u.bbox;
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    Object.assign(context, { strokeStyle: style.stroke(), lineWidth: style.width * ratio, globalAlpha: style.alpha ?? 1, lineJoin: "round" });
    context.setLineDash((style.dash || []).map((length) => length * ratio));
    context.beginPath();
    xs.forEach((x, i) => context.lineTo(u.valToPos(x, "x", true), u.valToPos(ys[i], "y", true)));
    context.stroke();
    context.restore();
  }

  #rescale() { for (const key of ["x", "y"]) this.u.setScale(key, { min: this[key][0], max: this[key][1] }); }

  #build() {
    this.u?.destroy();
    this.u = new uPlot({
      width: Math.max(this.box.clientWidth, 80), height: Math.max(this.box.clientHeight, 80), padding: [8, 10, 0, 0], pxAlign: 0,
      legend: { show: false }, cursor: { show: false }, select: { show: false },
      scales: { x: { time: false, auto: false, range: () => this.x }, y: { auto: false, range: () => this.y } },
      axes: [axis({ size: 26, space: 48 }), axis({ size: widest, space: apart, ...this.yAxis })],
      series: [{}, ...this.series.map((style) => ({ ...styled(style), points: { show: false } }))],
      hooks: { draw: [(u) => { this.#name(u); this.paint(this, u.ctx); this.moved(); }] },  // scales are settled only now
    }, this.data, this.box);
    this.u.over.append(this.layer);
    this.#rescale();
  }

  #name(u) {
    const { ctx, bbox: { left, top, height } } = u, ratio = devicePixelRatio || 1;
    ctx.save();  // uPlot remembers what it set
    Object.assign(ctx, { font: NAME.replace("13", String(13 * ratio)), fillStyle: colour("soft"), textBaseline: "alphabetic" });
    ctx.textAlign = "right";
    ctx.fillText(this.names[0], left - 9 * ratio, top + height + 16 * ratio);
    ctx.textAlign = "left";
    ctx.fillText(this.names[1], left + 6 * ratio, top + 14 * ratio);
    ctx.restore();
  }

  #resize() {
    if (!this.u || !this.box.clientWidth) return;
    this.u.setSize({ width: this.box.clientWidth, height: this.box.clientHeight });
  }
}

const styled = ({ stroke, width = 2, dash, alpha = 1, fill = () => null }) => ({ stroke, width, dash, alpha, fill, fillTo: (u) => u.scales.y.min, spanGaps: true, pxAlign: 0 });

/* A prediction is a wide line in the colour of its potential, the second's with gaps that show the first, and the solver's solution a thin dashed one over it. */
export const styles = {
  predicted: (name, axis = 0) => ({ stroke: () => colour(name), width: axis ? 2.5 : 4, alpha: axis ? 0.35 : 0.5, dash: name === "b" ? [14, 8] : undefined }),
  solved: () => ({ stroke: () => colour("ink"), width: 1.25, dash: [4, 4] }),
  whole: (name) => ({ stroke: () => colour(name), width: 2 }),
  part: (name, dash) => ({ stroke: () => colour(name), width: 1.25, alpha: 0.75, dash }),
};
