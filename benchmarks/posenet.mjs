// Google's PoseNet (@tensorflow-models/posenet) on the WebAssembly backend behind a pipe: one request a line, one answer a line.
//
//     node posenet.mjs FOLDER WEIGHTS
//
// FOLDER is where npm installed the packages, WEIGHTS the folder of posenet.json and posenet.bin. A request is {image, width,
// height}: a JPEG file, and the size of the network's input. The answer holds milliseconds: to decode the file by either of two
// libraries, and from pixels to poses. `runtimes.py` is the other end.

import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {join} from 'node:path';
import {createInterface} from 'node:readline';

const [, , folder, weights] = process.argv;
const require = createRequire(join(folder, 'package.json'));
const tf = require('@tensorflow/tfjs-core');
const wasm = require('@tensorflow/tfjs-backend-wasm');
const posenet = require('@tensorflow-models/posenet');
const sharp = require('sharp');
const jpeg = require('jpeg-js');

await tf.setBackend('wasm');
await tf.ready();
const net = await posenet.load({
  architecture: 'MobileNetV1',
  outputStride: 16,
  multiplier: 0.75,
  inputResolution: 257,
  modelUrl: {load: async () => artifacts(weights)},
});
console.log(JSON.stringify({
  simd: await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT'),
  threads: wasm.getThreadsCount(),
  version: tf.version_core,
}));

for await (const line of createInterface({input: process.stdin})) {
  const {image, width, height} = JSON.parse(line);
  const bytes = readFileSync(image);
  const start = performance.now();
  jpeg.decode(bytes, {useTArray: true, formatAsRGBA: false});
  const afterJpegJs = performance.now();
  const {data, info} = await sharp(bytes).removeAlpha().raw().toBuffer({resolveWithObject: true});
  const afterSharp = performance.now();
  net.inputResolution = [height, width];
  const pixels = tf.tensor3d(new Uint8Array(data.buffer, data.byteOffset, data.length), [info.height, info.width, 3], 'int32');
  const poses = await net.estimateMultiplePoses(pixels, posenet.MULTI_PERSON_INFERENCE_CONFIG);
  pixels.dispose();
  const end = performance.now();
  console.log(JSON.stringify({
    jpegJs: afterJpegJs - start,
    sharp: afterSharp - afterJpegJs,
    poses: end - afterSharp,
    people: poses.length,
  }));
}

// The released file with its input of any size, and its outputs in the order in which the package takes them.
function artifacts(folder) {
  const {modelTopology, weightsManifest, signature, format} = JSON.parse(readFileSync(join(folder, 'posenet.json')));
  for (const node of modelTopology.node) {
    if (node.op === 'Placeholder') node.attr.shape = {shape: {dim: [1, -1, -1, 3].map(size => ({size}))}};
  }
  const names = ['offset_2', 'heatmap_2', 'displacement_fwd_2', 'displacement_bwd_2'].map(name => `MobilenetV1/${name}/BiasAdd:0`);
  const shards = weightsManifest.flatMap(({paths}) => paths).map(path => readFileSync(join(folder, path)));
  const bytes = Buffer.concat(shards);
  return {
    modelTopology,
    format,
    signature: {outputs: Object.fromEntries(names.map(name => [name, signature.outputs[name]]))},
    weightSpecs: weightsManifest.flatMap(({weights}) => weights),
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  };
}
