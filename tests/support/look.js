// Run inside a page, as a person would look at it: what is wrong, as sentences.
() => {
  const wrong = [];
  const width = document.documentElement.clientWidth;
  const said = node => JSON.stringify(node.textContent.trim().slice(0, 40));
  const isIn = (node, kind) => node.closest(kind) !== null;

  // Horizontally all of it is there without scrolling; what scrolls by itself may be wider.
  if (document.documentElement.scrollWidth > width)
    wrong.push(`the page is ${document.documentElement.scrollWidth} px wide on a screen of ${width}`);

  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.textContent.trim() || !node.parentElement.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) texts.push({ node, box, owner: node.parentElement });
  }
  if (!texts.length) wrong.push("there is no text");
  for (const { node, box, owner } of texts) {
    if (!isIn(owner, ".wide") && (box.left < -0.5 || box.right > width + 0.5))
      wrong.push(`${said(node)} is cut by the edge of the screen`);
    for (let up = owner; up !== document.body; up = up.parentElement) {
      const edge = up.getBoundingClientRect();
      const isCutting = getComputedStyle(up).overflowX !== "visible" && !up.matches(".wide");
      if (isCutting && (box.right > edge.right + 0.5 || box.bottom > edge.bottom + 0.5))
        wrong.push(`${said(node)} is cut by its box`);
    }
    if (box.width < 1 || box.height < 8) wrong.push(`${said(node)} is too small to be read`);
  }
  texts.forEach((one, at) => {
    for (const other of texts.slice(at + 1)) {
      const across = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
      const down = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top);
      if (one.node !== other.node && across > 0.5 && down > 2)
        wrong.push(`${said(one.node)} and ${said(other.node)} lie on one another`);
    }
  });

  // Contrast as WCAG counts it: 4.5 for text, 3 for what is drawn.
  const channels = colour => (colour.match(/[\d.]+/g) || []).map(Number);
  const light = colour => {
    const [r, g, b] = channels(colour).map(c => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const isClear = colour => colour === "none" || channels(colour)[3] === 0;
  const ground = element => {
    for (let up = element; up; up = up.parentElement) {
      const colour = getComputedStyle(up).backgroundColor;
      if (!isClear(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (element, colour) => {
    const [a, b] = [light(colour), light(ground(element))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  for (const { node, owner } of texts)
    if (contrast(owner, getComputedStyle(owner).color) < 4.5) wrong.push(`${said(node)} is hard to read`);

  // Every picture shows something, inside its box.
  const pictures = [...document.querySelectorAll("figure svg:not(.key)")].map(svg => {
    const box = svg.getBoundingClientRect();
    const name = said(svg.closest("figure").querySelector("figcaption"));
    const marks = [...svg.querySelectorAll("path.line, path.dots, path.bar")];
    if (!marks.length || box.width < 20 || box.height < 8) wrong.push(`${name} shows nothing`);
    for (const mark of svg.querySelectorAll("path")) {
      const it = mark.getBoundingClientRect();
      const isInside = it.left >= box.left - 1 && it.right <= box.right + 1 && it.top >= box.top - 1 && it.bottom <= box.bottom + 1;
      if (!isInside) wrong.push(`${name}: ${mark.getAttribute("class")} is drawn outside of its picture`);
    }
    const colours = marks.map(mark => {
      const style = getComputedStyle(mark);
      const colour = isClear(style.stroke) ? style.fill : style.stroke;
      if (isClear(colour) || contrast(svg, colour) < 3) wrong.push(`${name}: ${mark.getAttribute("class")} is hard to see`);
      return channels(colour).slice(0, 3);
    });
    const { x, y } = box;
    return { name, colours, x: x + scrollX - 4, y: y + scrollY - 4, width: box.width + 8, height: box.height + 8 };
  });
  return { wrong: [...new Set(wrong)], pictures, ground: light(ground(document.body)) };
}
