// What a reader would complain of in the page as it stands: a list of what kind, where, and how.
({ width, contrast }) => {
  const faults = [];
  const root = document.documentElement;
  const view = Math.min(root.clientWidth, width);
  const seen = (element) =>
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const named = (element) => {
    const names = [...element.classList].slice(0, 2).map((name) => "." + name);
    return element.tagName.toLowerCase() + (element.id ? "#" + element.id : "") + names.join("");
  };
  const ancestors = (element) => {
    const found = [];
    for (let each = element; each; each = each.parentElement) found.push(each);
    return found;
  };

  // The page itself must not scroll to the side, nor cut off what is wider; an element may scroll.
  if (root.scrollWidth > view) faults.push(["page scrolls to the side", "", `by ${root.scrollWidth - view} px`]);
  const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflowX);
  const wide = new Set();
  for (const element of document.body.querySelectorAll("*")) {
    const { right, left, height } = element.getBoundingClientRect();
    if (right <= view + 1 || left >= view || !height || !seen(element)) continue;
    if (wide.has(element.parentElement)) {
      wide.add(element);
    } else if (!ancestors(element.parentElement).some(scrolls)) {
      wide.add(element);
      const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
      faults.push(["wider than the page", named(element), `by ${Math.round(right - view)} px: ${text}`]);
    }
  }

  // Colors are drawn and read back, so that every notation is understood.
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const parsed = new Map();
  const parse = (color) => {
    if (!parsed.has(color)) {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = color;
      context.fillRect(0, 0, 1, 1);
      const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
      parsed.set(color, [red, green, blue, alpha / 255]);
    }
    return parsed.get(color);
  };
  const over = ([r, g, b, alpha], below) =>
    [r, g, b].map((value, at) => alpha * value + (1 - alpha) * below[at]);
  const remembered = (of) => {
    const known = new Map();
    return (element) => {
      if (!known.has(element)) known.set(element, of(element));
      return known.get(element);
    };
  };
  const behind = remembered((element) =>
    element
      ? over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement))
      : [255, 255, 255],
  );
  const opacity = remembered((element) =>
    element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1,
  );
  const linear = (value) =>
    value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  // As the Web Content Accessibility Guidelines define it: 1 for equal colors, 21 for black on white.
  const ratio = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };

  const pale = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || pale.has(element) || !seen(element) || element.closest("script, style")) continue;
    const style = getComputedStyle(element);
    const [size, weight] = [parseFloat(style.fontSize), Number(style.fontWeight)];
    const needed = size >= 24 || (size >= 18.6 && weight >= 700) ? contrast * (2 / 3) : contrast;
    const below = behind(element);
    const [r, g, b, alpha] = parse(style.color);
    const found = ratio(over([r, g, b, alpha * opacity(element)], below), below);
    pale.set(element, found);
    if (found < needed)
      faults.push(["pale text", named(element), `${found.toFixed(1)}: ${text.slice(0, 30)}`]);
  }

  for (const image of document.images) {
    if (!seen(image)) continue;
    const source = image.getAttribute("src");
    if (!image.complete || !image.naturalWidth) {
      faults.push(["image does not load", source]);
      continue;
    }
    if (image.clientWidth < 150) continue; // too small for letters
    // Of the thin things that are drawn on a transparent ground, such as letters, how much disappears
    // on the ground of this theme?
    const [columns, rows] = [image.naturalWidth, image.naturalHeight].map((n) => Math.min(n, 800));
    [canvas.width, canvas.height] = [columns, rows];
    context.drawImage(image, 0, 0, columns, rows);
    const pixels = context.getImageData(0, 0, columns, rows).data;
    const below = behind(image);
    const around = [-8, 8, -8 * columns, 8 * columns]; // two pixels away
    let [drawn, lost] = [0, 0];
    for (let at = 0; at < pixels.length; at += 4) {
      if (pixels[at + 3] > 128 && around.some((step) => pixels[at + step + 3] < 25)) {
        drawn += 1;
        lost += ratio(pixels.slice(at, at + 3), below) < 1.5;
      }
    }
    if (lost > 0.5 * drawn)
      faults.push([
        "picture that its ground swallows",
        source,
        `${Math.round((100 * lost) / drawn)} %`,
      ]);
  }
  return faults;
};
