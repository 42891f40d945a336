/* What the page shows, as files: a table of the trajectories, and an image. */
import { styles } from "./plots.js";
import { colour } from "./theme.js";

const MARGIN = 16;  // pixels around the image

export function save(name, blob) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/* One row for each time. The columns of `predict --out x.csv` (t, q, p; or q1, q2, p1, p2), then the energy and the solver's solution. */
export function table(cards) {
  const several = cards.length > 1, [{ isPlane }] = cards, of = (name) => isPlane ? [`${name}1`, `${name}2`] : [name];
  const header = [...(several ? ["problem"] : []), "t", ...of("q"), ...of("p"), "energy", ...of("q_solver"), ...of("p_solver")], lines = [header];
  for (const { name, shown, reference } of cards) shown.times.forEach((t, i) => {
    const given = (values) => values ? [values[i]].flat() : of("q").map(() => "");
    lines.push([...(several ? [name] : []), t, ...given(shown.q), ...given(shown.p), reference?.energies ? reference.energies[i] : "", ...given(reference?.q), ...given(reference?.p)]);
  });
  return `${lines.map((line) => line.join(",")).join("\n")}\n`;
}

/* The scene without its forms, whose content is a line of text, for as long as the image is drawn. */
export async function image(scene, cards) {
  for (const card of cards) card.$(".facts").textContent = card.facts;
  scene.classList.add("imaged");
  try {
    for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);  // the plots take their new sizes
    return await draw(scene, cards);
  } finally { scene.classList.remove("imaged"); }
}

/* The canvases of the page where they stand, with captions and with the particle where it is. */
function draw(scene, cards) {
  const edge = scene.getBoundingClientRect(), ratio = Math.max(devicePixelRatio || 1, 2), isNarrow = edge.width < 640, top = MARGIN + (isNarrow ? 70 : 44);
  const size = [edge.width + 2 * MARGIN, edge.height + top + MARGIN];
  const canvas = Object.assign(document.createElement("canvas"), { width: Math.round(size[0] * ratio), height: Math.round(size[1] * ratio) });
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = colour("sheet");
  pen.fillRect(0, 0, ...size);
  const place = (element) => { const box = element.getBoundingClientRect(); return [box.left - edge.left + MARGIN, box.top - edge.top + top, box.width, box.height]; };
  Object.assign(pen, { fillStyle: colour("ink"), font: "600 18px Georgia, serif" });
  pen.fillText("Neural Hamilton", MARGIN, MARGIN + 22);
  drawLegend(pen, cards, MARGIN + edge.width, MARGIN + (isNarrow ? 50 : 17));
  for (const panel of scene.querySelectorAll(".panel")) {
    if (!panel.clientWidth) continue;
    const [x, y, width, height] = place(panel);
    Object.assign(pen, { fillStyle: colour("card"), strokeStyle: colour("line"), lineWidth: 1 });
    pen.beginPath();
    pen.roundRect(x, y, width, height, 10);
    pen.fill();
    pen.stroke();
  }
  Object.assign(pen, { fillStyle: colour("soft"), font: "13px system-ui, sans-serif", textBaseline: "middle" });
  for (const caption of scene.querySelectorAll("figcaption")) if (caption.clientWidth) { const [x, y, width, height] = place(caption); pen.fillText(caption.innerText, x, y + height / 2, width); }
  for (const card of scene.querySelectorAll(".card")) {
    const [x, y, , height] = place(card.querySelector(".formula"));
    pen.fillStyle = colour("ink");
    pen.font = "15px ui-monospace, Consolas, monospace";
    pen.fillText(`${card.querySelector(".what").innerText.replace(/\s+/g, " ").trim()} ${card.querySelector(".expression").value || "drawn by hand"}`, x, y + height / 2, card.clientWidth - 32);
    for (const [selector, indent] of [[".facts", 0], [".levels", 0], [".status", 12]]) wrap(pen, card.querySelector(selector), place, indent);
  }
  for (const one of scene.querySelectorAll("canvas")) if (one.clientWidth) pen.drawImage(one, ...place(one));
  for (const dot of scene.querySelectorAll(".ball, .dot")) {
    if (dot.hidden || !dot.offsetParent) continue;
    const [x, y, width, height] = place(dot);
    Object.assign(pen, { fillStyle: getComputedStyle(dot).backgroundColor, strokeStyle: colour("card"), lineWidth: 1.5 });
    pen.beginPath();
    pen.arc(x + width / 2, y + height / 2, width / 2, 0, 7);
    pen.fill();
    pen.stroke();
  }
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/* To the left of `right`: a wide line for the predictions of each potential, a thin dashed one for the solver's solution. */
function drawLegend(pen, cards, right, y) {
  const entries = [...cards.map((card) => [cards.length > 1 ? `prediction ${card.name}` : "prediction", styles.predicted(card.colour)]), ["solver", styles.solved()]];
  Object.assign(pen, { font: "13px system-ui, sans-serif", textBaseline: "middle" });
  for (const [text, { stroke, width, alpha = 1, dash = [] }] of entries.reverse()) {
    right -= pen.measureText(text).width;
    pen.fillStyle = colour("soft");
    pen.fillText(text, right, y);
    pen.save();
    Object.assign(pen, { strokeStyle: stroke(), lineWidth: width, globalAlpha: alpha });
    pen.setLineDash(dash);
    pen.beginPath();
    pen.moveTo(right - 40, y);
    pen.lineTo(right - 6, y);
    pen.stroke();
    pen.restore();
    right -= 56;
  }
}

function wrap(pen, element, place, indent) {
  if (!element.clientWidth) return;
  const [x, y, width] = place(element);
  Object.assign(pen, { fillStyle: colour("soft"), font: "12px system-ui, sans-serif" });
  let line = "", row = 0;
  for (const word of [...element.textContent.split(" "), null]) {
    if (word === null || pen.measureText(`${line} ${word}`).width > width - indent - 4) { pen.fillText(line, x + indent, y + 10 + 18 * row++); line = ""; }
    line = line ? `${line} ${word}` : word;
  }
}
