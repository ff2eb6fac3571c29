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
    const words = spread(dropoutKey(Number(seed.value)));
    const context = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const color = style.getPropertyValue("--pst-color-primary") || "#0a7d91";
    const chosen = Number(part.value);
    let kept = 0;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = color;
    for (let row = 0; row < rows; row++) {
      const device = Math.floor(row / (rows / 4));
      context.globalAlpha = chosen < 0 || chosen === device ? 1 : 0.12;
      for (let column = 0; column < columns; column++) {
        if (keeps(words, row * columns + column, Number(rate.value))) {
          kept += 1;
          context.fillRect(column * size, row * size, size - 1, size - 1);
        }
      }
    }
    const share = ((100 * kept) / (rows * columns)).toFixed(1);
    said.textContent = `rate ${Number(rate.value).toFixed(2)}: ${share} % of ${rows * columns} entries are kept`;
  }

  for (const input of [seed, rate, part]) input.addEventListener("input", draw);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  draw();
}
