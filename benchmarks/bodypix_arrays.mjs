// The algorithm of @tensorflow-models/body-pix's `decodeMultiplePoses` over plain typed arrays: the same poses without the tensor
// buffers through which the package reads its maps, and without objects for points.

import {createRequire} from 'node:module';
import {join} from 'node:path';

const require = createRequire(join(process.argv[2], 'package.json'));
const {PART_IDS, POSE_CHAIN} = require('@tensorflow-models/body-pix/dist/keypoints.js');
const PARENTS = Int32Array.from(POSE_CHAIN, ([parent]) => PART_IDS[parent]);
const CHILDREN = Int32Array.from(POSE_CHAIN, ([, child]) => PART_IDS[child]);
const REFINEMENTS = 2;

// The maps are (height, width, channels), offsets with y of all channels before x, as the package has them. Gives the number of
// poses, (x, y) of the keypoints of each, their scores, and the scores of the poses.
export function decodePosesFromArrays(heat, short, forward, backward, [height, width, parts], stride, most, threshold, nmsRadius) {
  const edges = parts - 1;
  const squaredRadius = nmsRadius * nmsRadius;
  const seeds = localMaxima(heat, height, width, parts, threshold);
  const positions = new Float64Array(2 * most * parts), scores = new Float64Array(most * parts);
  const poseScores = new Float64Array(most), reached = new Uint8Array(parts);
  let count = 0;

  const column = x => clamp(Math.round(x / stride), width - 1);
  const row = y => clamp(Math.round(y / stride), height - 1);

  const taken = (x, y, part) => {
    for (let at = 2 * part; at < 2 * count * parts; at += 2 * parts) {
      const dx = x - positions[at], dy = y - positions[at + 1];
      if (dx * dx + dy * dy <= squaredRadius) return true;
    }
    return false;
  };

  const walk = (edge, source, target, fields) => {
    const from = 2 * (count * parts + source), to = count * parts + target;
    const start = 2 * edges * (row(positions[from + 1]) * width + column(positions[from])) + edge;
    let x = positions[from] + fields[start + edges], y = positions[from + 1] + fields[start];
    for (let i = 0; i < REFINEMENTS; ++i) {
      const r = row(y), c = column(x), cell = 2 * parts * (r * width + c) + target;
      x = c * stride + short[cell + parts];
      y = r * stride + short[cell];
    }
    positions[2 * to] = x;
    positions[2 * to + 1] = y;
    scores[to] = heat[parts * (row(y) * width + column(x)) + target];
    reached[target] = 1;
  };

  for (const seed of seeds) {
    if (count === most) break;
    const part = seed % parts, cell = (seed - part) / parts, left = cell % width;
    const x = left * stride + short[2 * parts * cell + parts + part];
    const y = (cell - left) / width * stride + short[2 * parts * cell + part];
    if (taken(x, y, part)) continue;
    reached.fill(0);
    const at = count * parts + part;
    positions[2 * at] = x;
    positions[2 * at + 1] = y;
    scores[at] = heat[seed];
    reached[part] = 1;
    for (let edge = edges - 1; edge >= 0; --edge) {
      if (reached[CHILDREN[edge]] && !reached[PARENTS[edge]]) walk(edge, CHILDREN[edge], PARENTS[edge], backward);
    }
    for (let edge = 0; edge < edges; ++edge) {
      if (reached[PARENTS[edge]] && !reached[CHILDREN[edge]]) walk(edge, PARENTS[edge], CHILDREN[edge], forward);
    }
    let total = 0;
    for (let k = 0; k < parts; ++k) {
      const own = count * parts + k;
      if (!taken(positions[2 * own], positions[2 * own + 1], k)) total += scores[own];
    }
    poseScores[count++] = total / parts;
  }
  return {count, positions, scores, poseScores};
}

// Indices in the heatmaps of the scores above the threshold that no neighbour exceeds, best first.
function localMaxima(heat, height, width, parts, threshold) {
  const found = [];
  let at = 0;
  for (let y = 0; y < height; ++y) {
    for (let x = 0; x < width; ++x) {
      for (let k = 0; k < parts; ++k, ++at) {
        if (heat[at] >= threshold && isMaximum(heat, height, width, parts, y, x, k, heat[at])) found.push(at);
      }
    }
  }
  return found.sort((one, other) => heat[other] - heat[one]);
}

function isMaximum(heat, height, width, parts, y, x, k, score) {
  const last = Math.min(y + 1, height - 1), right = Math.min(x + 1, width - 1);
  for (let row = Math.max(y - 1, 0); row <= last; ++row) {
    for (let column = Math.max(x - 1, 0); column <= right; ++column) {
      if (heat[(row * width + column) * parts + k] > score) return false;
    }
  }
  return true;
}

function clamp(value, most) {
  return value < 0 ? 0 : value > most ? most : value;
}
