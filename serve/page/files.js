/* What the page shows, as files: a table of the trajectories, and an image. */
import { colour } from "./theme.js";

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

/* The canvases of the page where they stand, with captions and with the particle where it is. */
export function image(scene) {
  const edge = scene.getBoundingClientRect(), ratio = Math.max(devicePixelRatio || 1, 2), top = 44;
  const canvas = Object.assign(document.createElement("canvas"), { width: Math.round(edge.width * ratio), height: Math.round((edge.height + top) * ratio) });
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = colour("sheet");
  pen.fillRect(0, 0, edge.width, edge.height + top);
  const place = (element) => { const box = element.getBoundingClientRect(); return [box.left - edge.left, box.top - edge.top + top, box.width, box.height]; };
  Object.assign(pen, { fillStyle: colour("ink"), font: "600 18px Georgia, serif" });
  pen.fillText("Neural Hamilton", 2, 26);
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
  for (const caption of scene.querySelectorAll("figcaption")) if (caption.clientWidth) { const [x, y, , height] = place(caption); pen.fillText(caption.textContent, x, y + height / 2); }
  for (const card of scene.querySelectorAll(".card")) {
    const [x, y, , height] = place(card.querySelector(".formula"));
    pen.fillStyle = colour("ink");
    pen.font = "15px ui-monospace, Consolas, monospace";
    pen.fillText(`${card.querySelector(".what").textContent.replace(/\s+/g, " ").trim()} ${card.querySelector(".expression").value || "drawn by hand"}`, x, y + height / 2, card.clientWidth - 32);
    wrap(pen, card.querySelector(".status"), place);
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

function wrap(pen, element, place) {
  const [x, y, width] = place(element);
  Object.assign(pen, { fillStyle: colour("soft"), font: "12px system-ui, sans-serif" });
  let line = "", row = 0;
  for (const word of [...element.textContent.split(" "), null]) {
    if (word === null || pen.measureText(`${line} ${word}`).width > width - 16) { pen.fillText(line, x + 12, y + 10 + 18 * row++); line = ""; }
    line = line ? `${line} ${word}` : word;
  }
}
