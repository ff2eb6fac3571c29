// Draws the mask of jaxdrop.dropout(jaxdrop.key(seed), x, rate) as it is computed on any device.
import { dropoutKey, keeps, spread } from "./jaxdrop.mjs";

const canvas = document.getElementById("live-mask");
if (canvas) {
  const [seed, rate, part] = ["seed", "rate", "part"].map((name) =>
    document.getElementById(`live-${name}`),
  );
  const said = document.getElementById("live-said");
  const [rows, columns, size] = [32, 64, 8];

  function draw() {
    if (!seed.value || !seed.checkValidity()) {
      said.textContent = `a seed is an integer from ${seed.min} to ${seed.max}`;
      return;
    }
    const words = spread(dropoutKey(Number(seed.value)));
    const context = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const [keptColor, droppedColor] = ["primary", "border"].map((name) =>
      style.getPropertyValue(`--pst-color-${name}`),
    );
    const chosen = Number(part.value);
    const shown = [...Array(rows).keys()].filter(
      (row) => chosen < 0 || chosen === Math.floor(row / (rows / 4)),
    );
    let kept = 0;
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (const row of shown) {
      for (let column = 0; column < columns; column++) {
        const isKept = keeps(words, row * columns + column, Number(rate.value));
        kept += isKept;
        context.fillStyle = isKept ? keptColor : droppedColor;
        context.globalAlpha = isKept ? 1 : 0.35;
        context.fillRect(column * size, row * size, size - 1, size - 1);
      }
    }
    const entries = shown.length * columns;
    const place = chosen < 0 ? "" : ` on device ${chosen}`;
    const share = ((100 * kept) / entries).toFixed(1);
    said.textContent = `rate ${Number(rate.value).toFixed(2)}: ${share} % of ${entries} entries${place} are kept`;
  }

  for (const input of [seed, rate, part]) input.addEventListener("input", draw);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  draw();
}
