// Google's decoder of poses and masks (@tensorflow-models/body-pix) behind a pipe: one request a line, one answer a line.
//
//     node bodypix_decoder.mjs FOLDER
//
// FOLDER is where npm installed the package. `against_bodypix.py` is the other end; its `request` says what a line holds.

import {readFileSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {join} from 'node:path';
import {createInterface} from 'node:readline';
import {decodePosesFromArrays} from './bodypix_arrays.mjs';

const require = createRequire(join(process.argv[2], 'package.json'));
const multiPerson = '@tensorflow-models/body-pix/dist/multi_person';
const {decodeMultiplePoses} = require(`${multiPerson}/decode_multiple_poses.js`);
const {decodeMultipleMasksCPU} = require(`${multiPerson}/decode_multiple_masks_cpu.js`);
const {buffer} = require('@tensorflow/tfjs-core');

for await (const line of createInterface({input: process.stdin})) {
  const request = JSON.parse(line);
  const maps = readMaps(request);
  const poses = request.rootThresholds.map(threshold => decodePoses(maps, request, threshold));
  const masks = request.frames.flatMap(
      frame => request.poseThresholds.map(threshold => decodeMasks(maps, request, frame, poses[0].poses, threshold)));
  console.log(JSON.stringify({poses, masks}));
}

// Planar float32 maps, one after the other.
function readMaps({maps, shape: [height, width], keypoints, edges}) {
  const values = floats(readFileSync(maps));
  let start = 0;
  const next = channels => values.subarray(start, start += height * width * channels);
  const tensor = channels => buffer([height, width, channels], 'float32', next(channels));
  return {
    scores: tensor(keypoints),
    offsets: tensor(2 * keypoints),
    forward: tensor(2 * edges),
    backward: tensor(2 * edges),
    longOffsets: next(2 * keypoints),
  };
}

function floats(bytes) {
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

function decodePoses({scores, offsets, forward, backward}, {stride, maxDetections, nmsRadius, repeats}, threshold) {
  const buffers = [scores, offsets, forward, backward];
  const {result: poses, milliseconds} =
      timed(repeats, () => decodeMultiplePoses(...buffers, stride, maxDetections, threshold, nmsRadius));
  const arrays = buffers.map(({values}) => values);
  const {result, milliseconds: ofArrays} =
      timed(repeats, () => decodePosesFromArrays(...arrays, scores.shape, stride, maxDetections, threshold, nmsRadius));
  if (!same(poses, result)) throw new Error('the decoder over plain arrays finds other poses');
  return {threshold, poses, milliseconds, ofArrays};
}

function timed(repeats, run) {
  const milliseconds = [];
  let result;
  for (let i = 0; i < repeats; ++i) {
    const began = process.cpuUsage();
    result = run();
    const {user, system} = process.cpuUsage(began);
    milliseconds.push((user + system) / 1e3);
  }
  return {result, milliseconds};
}

function same(poses, {count, positions, scores, poseScores}) {
  return poses.length === count && poses.every(({score, keypoints}, i) => near(score, poseScores[i]) && keypoints.every((keypoint, k) => {
    const at = i * keypoints.length + k;
    return near(keypoint.score, scores[at]) && near(keypoint.position.x, positions[2 * at]) && near(keypoint.position.y, positions[2 * at + 1]);
  }));
}

function near(one, other) {
  return Math.abs(one - other) < 1e-3;
}

// Masks of the poses from a score on, in a frame of so many pixels. Every pixel has one owner at most, so that one byte per pixel
// tells all: 1 + the index of the pose, 0 for nobody.
function decodeMasks({longOffsets}, {stride, inputShape, refineSteps}, frame, poses, threshold) {
  const {height, width, padding} = frame;
  const segmentation = readFileSync(frame.segmentation);
  const indices = [...poses.keys()].filter(i => poses[i].score >= threshold);
  const chosen = indices.map(i => moved(poses[i], frame.scale));
  const {result: masks, milliseconds: [milliseconds]} = timed(1, () => decodeMultipleMasksCPU(
      segmentation, longOffsets, chosen, height, width, stride, inputShape, padding, refineSteps));
  const owners = new Uint8Array(height * width);
  masks.forEach((mask, k) => mask.forEach((own, n) => {
    if (own) owners[n] = 1 + indices[k];
  }));
  const path = `${frame.segmentation}-${threshold}`;
  writeFileSync(path, owners);
  return {frame: frame.name, threshold, indices, owners: path, milliseconds};
}

// A pose in pixels of a frame, as the package's `scalePoses` has it.
function moved({score, keypoints}, [scaleX, scaleY]) {
  return {score, keypoints: keypoints.map(({score, position: {x, y}}) => ({score, position: {x: x / scaleX, y: y / scaleY}}))};
}
