// Small line plots on a canvas, in the colours of the style sheet.

const DASHES = [[], [2, 3], [6, 3], [8, 3, 2, 3]];
const BORDERS = ["solid", "dotted", "dashed", "double"];
const COLOURS = 4;
const LABEL = 14; // height of a label

/** Marks an element with the colour and the kind of line of a series. */
export function mark(element, series) {
  element.style.setProperty("--series", `var(--series-${series % COLOURS})`);
  element.style.borderLeftStyle = BORDERS[Math.floor(series / COLOURS) % BORDERS.length];
}

/** Lines over time: one value for each series at a time, the newest at the right. */
export class Plot {
  constructor(canvas, { most, unit = "", floor = 0, line = null }) {
    Object.assign(this, { canvas, most, unit, floor, line });
    this.columns = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.columns = [];
    this.draw();
  }

  add(values) {
    this.columns.push(values);
    if (this.columns.length > this.most) this.columns.shift();
    this.draw();
  }

  draw() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.canvas);
    const values = this.columns.flat().filter((value) => value !== null);
    const top = Math.max(this.floor, ...values) * 1.1 || 1;
    const box = { left: 64, right: width - 8, top: 8, bottom: height - 8, scale: top };
    this.drawAxes(context, style, box);
    const series = Math.max(0, ...this.columns.map((column) => column.length));
    for (let i = 0; i < series; i++) this.drawSeries(context, style, box, i);
  }

  drawAxes(context, style, box) {
    context.strokeStyle = style.getPropertyValue("--line");
    context.fillStyle = style.getPropertyValue("--soft");
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    let labelled = Infinity;
    for (const mark of [0, this.line ?? box.scale / 2, box.scale]) {
      const y = heightOf(mark, box);
      context.setLineDash(mark === this.line ? [3, 3] : []);
      context.beginPath();
      context.moveTo(box.left, y);
      context.lineTo(box.right, y);
      context.stroke();
      if (labelled - y < LABEL) continue; // it would lie on the one before
      context.fillText(`${Number(mark.toPrecision(2))}${this.unit}`, box.left - 6, y);
      labelled = y;
    }
  }

  drawSeries(context, style, box, series) {
    context.strokeStyle = style.getPropertyValue(`--series-${series % COLOURS}`);
    context.lineWidth = 1.5;
    context.setLineDash(DASHES[Math.floor(series / COLOURS) % DASHES.length]);
    context.beginPath();
    let isOpen = false;
    this.columns.forEach((column, i) => {
      const value = column[series] ?? null;
      const x = box.right - (this.columns.length - 1 - i) * ((box.right - box.left) / (this.most - 1));
      if (value !== null) context[isOpen ? "lineTo" : "moveTo"](x, heightOf(value, box));
      isOpen = value !== null;
    });
    context.stroke();
  }
}

function heightOf(value, box) {
  return box.bottom - (value / box.scale) * (box.bottom - box.top);
}
