// What the page holds, unpacked: `tributary_opt.report.packed` is the other half.
"use strict";
async function inflated(id) {
  const text = document.getElementById(id).textContent.trim();
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(text);
  else {
    const raw = atob(text);
    bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
async function unpacked(id) {
  const whole = await inflated(id), length = new DataView(whole.buffer).getUint32(0, true), base = 4 + length;
  const content = JSON.parse(new TextDecoder().decode(whole.subarray(4, base)));
  const types = { u1: Uint8Array, f4: Float32Array, f8: Float64Array };
  const array = (place) => {
    const type = types[place.kind], size = type.BYTES_PER_ELEMENT, out = new Uint8Array(place.n * size);
    for (let p = 0; p < size; p++) {
      const from = base + place.at + p * place.n;
      for (let i = 0; i < place.n; i++) out[i * size + p] = whole[from + i];
    }
    return new type(out.buffer);
  };
  const words = (place) => Array.from(array(place.codes), (c) => (c === c ? place.words[c] : null));
  return { content, array, words };
}
// A getter that does its work once.
function lazily(object, name, make) {
  Object.defineProperty(object, name, { configurable: true, enumerable: true, get() {
    const value = make();
    Object.defineProperty(object, name, { value, enumerable: true });
    return value;
  } });
}
