// How many pixels of a PNG (base64) have each of some colours, nearly.
async ({ png, colours }) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  return colours.map(colour => {
    let seen = 0;
    for (let at = 0; at < data.length; at += 4)
      seen += colour.every((channel, number) => Math.abs(data[at + number] - channel) < 24);
    return seen;
  });
}
