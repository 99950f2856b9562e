/* The forecasts of a fitted Forecaster for one item, in plain JavaScript over typed arrays.
 *
 * `new Engine(model)` takes the description that statecast/playground/description.py makes. The
 * equations are those of forecast/engine.py, forecast/companions.py and heads/, which name their
 * sources. Sums are in double precision. tests/playground/test_engine.py compares `forecast` with
 * `Forecaster.predict`, and `paths` with `Forecaster.simulate`.
 *
 * Positions, members and items count from 0. With several targets a step has a position for each.
 */
"use strict";

// -- arrays ---------------------------------------------------------------------------------------

const clip = (x, low, high) => Math.min(Math.max(x, low), high);
const sum = (values) => values.reduce((total, each) => total + each, 0);

/** The nearest whole number, and the even one from the middle of two. */
function rint(x) {
  const down = Math.floor(x);
  const part = x - down;
  if (part !== 0.5) return part < 0.5 ? down : down + 1;
  return down % 2 === 0 ? down : down + 1;
}

/** Add the product of a vector and a matrix of `out.length` columns to `out`. */
function addProduct(out, vector, matrix, from = 0) {
  const columns = out.length;
  for (let i = 0; i < vector.length; i++) {
    const each = vector[i];
    if (each === 0) continue;
    const row = (from + i) * columns;
    for (let j = 0; j < columns; j++) out[j] += each * matrix[row + j];
  }
  return out;
}

const affine = (vector, { kernel, bias }) => addProduct(new Float64Array(bias), vector, kernel);

/** Arrays by name, from their place in a text in base64. */
function unpacked(arrays, data) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer;
  const types = { float32: Float32Array, float64: Float64Array, int32: Int32Array };
  const found = {};
  for (const [name, { dtype, shape, offset }] of Object.entries(arrays)) {
    const size = shape.reduce((a, b) => a * b, 1);
    found[name] = { shape, values: new types[dtype](bytes, offset, size) };
  }
  return found;
}

/** Part `index` along the first axis. */
function part({ shape, values }, index) {
  const size = values.length / shape[0];
  return values.subarray(index * size, (index + 1) * size);
}

// -- statistical functions: heads/namespace.py and heads/special.py -------------------------------

const LEAST_LEVEL = 1e-6;
const HALF_LOG_2PI = 0.5 * Math.log(2 * Math.PI);
const polynomial = (x, coefficients) => coefficients.reduce((total, each) => total * x + each, 0);
const ratio = (x, [above, below]) => polynomial(x, above) / polynomial(x, below);
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const sigmoid = (x) => 0.5 * (Math.tanh(0.5 * x) + 1);

const ERF_NEAR = [
  [1.85777706184603153e-1, 3.1611237438705656, 1.13864154151050156e2, 3.77485237685302021e2,
    3.20937758913846947e3],
  [1, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3],
];
const ERFC_MIDDLE = [
  [2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
    2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
    1.23033935479799725e3],
  [1, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3],
];
const ERFC_FAR = [
  [1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
    1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4],
  [1, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2,
    2.33520497626869185e-3],
];

/** 1 minus the error function: Cody (1969). */
function erfc(x) {
  const size = Math.abs(x);
  if (size <= 0.46875) return 1 - x * ratio(x * x, ERF_NEAR);
  let tail;
  if (size <= 4) {
    tail = ratio(size, ERFC_MIDDLE);
  } else {
    const inverse = 1 / (size * size);
    tail = (1 / Math.sqrt(Math.PI) - inverse * ratio(inverse, ERFC_FAR)) / size;
  }
  tail *= Math.exp(-size * size);
  return x < 0 ? 2 - tail : tail;
}

const normalCdf = (x) => 0.5 * erfc(-x / Math.SQRT2);

const PPND_CENTRE = [
  [2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
    4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
    1.3314166789178437745e2, 3.387132872796366608],
  [5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
    2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
    4.2313330701600911252e1, 1],
];
const PPND_NEAR = [
  [7.7454501427834140764e-4, 2.27238449892691845833e-2, 2.4178072517745061177e-1,
    1.27045825245236838258, 3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959,
    1.42343711074968357734],
  [1.05075007164441684324e-9, 5.475938084995344946e-4, 1.51986665636164571966e-2,
    1.4810397642748007459e-1, 6.8976733498510000455e-1, 1.6763848301838038494,
    2.05319162663775882187, 1],
];
const PPND_FAR = [
  [2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.2426609473880784386e-3,
    2.65321895265761230930e-2, 2.9656057182850489123e-1, 1.7848265399172913358,
    5.4637849111641143699, 6.6579046435011037772],
  [2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5,
    7.868691311456132591e-4, 1.48753612908506148525e-2, 1.3692988092273580531e-1,
    5.9983220655588793769e-1, 1],
];

/** The standard normal quantile: Wichura (1988), Algorithm AS 241. */
function normalQuantile(level) {
  const q = level - 0.5;
  if (Math.abs(q) <= 0.425) return q * ratio(0.180625 - q * q, PPND_CENTRE);
  const r = Math.sqrt(-Math.log(0.5 - Math.abs(q)));
  const tail = r <= 5 ? ratio(r - 1.6, PPND_NEAR) : ratio(r - 5, PPND_FAR);
  return q < 0 ? -tail : tail;
}

/** Student's t quantile: Hill (1970), Algorithm 396. */
function studentQuantile(level, n) {
  const both = 2 * Math.min(level, 1 - level);
  const a = 1 / (n - 0.5);
  const b = 48 / (a * a);
  let c = ((20700 * a / b - 98) * a - 16) * a + 96.36;
  const d = ((94.5 / (b + c) - 3) / b + 1) * Math.sqrt(a * Math.PI / 2) * n;
  const y = (d * both) ** (2 / n);
  const x = normalQuantile(0.5 * both);
  let body;
  if (y > 0.05 + a) {
    const square = x * x;
    if (n < 5) c += 0.3 * (n - 4.5) * (x + 0.6);
    c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c;
    body = ((((0.4 * square + 6.3) * square + 36) * square + 94.5) / c - square - 3) / b + 1;
    body = Math.expm1(a * (body * x) ** 2);
  } else {
    body = (n + 6) / (n * y) - 0.089 * d - 0.822;
    body = ((1 / (body * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (n + 2) + 1 / y;
  }
  const found = Math.sqrt(n * body);
  return level < 0.5 ? -found : found;
}

/** The error of Stirling's formula for the logarithm of the gamma function (Loader 2000). */
function stirlingError(x) {
  const series = (at) => {
    const square = 1 / (at * at);
    return (1 / 12 - square * (1 / 360 - square / 1260)) / at;
  };
  if (x >= 8) return series(x);
  let [rising, power] = [x, x + 6];
  for (let i = 1; i < 6; i++) [rising, power] = [rising * (x + i), power * (x + 6)];
  return (x - 0.5) * Math.log1p(6 / x) + Math.log(power / rising) - 6 + series(x + 6);
}

/** (1 + d) log(1 + d) - d, to full relative precision around 0. */
function deviance(d) {
  if (Math.abs(d) >= 0.1) return (1 + d) * Math.log(Math.max(1 + d, 1e-30)) - d;
  let [term, series] = [0.5 * d * d, 0];
  for (let n = 2; n < 9; n++) {
    series += term;
    term *= -d * (n - 1) / (n + 1);
  }
  return series;
}

function peizerPratt(t) {
  const e = t - 1;
  if (Math.abs(e) < 0.05) return -e * (1 / 3 - e * (1 / 6 - e * (1 / 10 - e / 15)));
  return (2 * deviance(e) - e * e) / (e * e);
}

/** The Poisson distribution function, continued to x >= -1: Peizer and Pratt (1968). */
function poissonCdf(x, mean) {
  let a = Math.max(x + 1, 1e-6);
  let below = 0;
  let term = Math.exp(-stirlingError(a) - mean * deviance((a - mean) / mean)
    - 0.5 * Math.log(a) - HALF_LOG_2PI);
  for (let i = 0; i < 6; i++) {
    below += term;
    a += 1;
    term *= mean / a;
  }
  const z = (a - 1 / 3 - mean + 0.02 / a) / Math.sqrt(mean);
  return clip(normalCdf(z * Math.sqrt(1 + peizerPratt((a - 0.5) / mean))) - below, 0, 1);
}

/** The negative binomial distribution function, continued to x >= -1: Peizer and Pratt (1968). */
function negativeBinomialCdf(x, mean, size) {
  let [a, b] = [size, Math.max(x + 1, 1e-6)];
  const [p, q] = [size / (size + mean), mean / (size + mean)];
  const whole = b + size;
  let term = Math.exp(stirlingError(whole) - stirlingError(size) - stirlingError(b)
    - whole * p * deviance((mean - b) / whole)
    - whole * q * deviance(size * (b - mean) / (whole * mean))
    + 0.5 * (Math.log(size) - Math.log(b) - Math.log(whole)) - HALF_LOG_2PI);
  let more = 0;
  for (let i = 0; i < 6; i++) {
    more += term * b / a;
    term *= p * (a + b) / a;
    a += 1;
  }
  for (let i = 0; i < 6; i++) {
    more -= term;
    b += 1;
    term *= q * (a + b - 1) / b;
  }
  const n = a + b - 1;
  let z = a - 1 / 3 - (n + 1 / 3) * p + 0.02 * (q / a - p / b + (q - 0.5) / (n + 1));
  z /= Math.sqrt((n + 1 / 6) * p * q);
  z *= Math.sqrt(1 + q * peizerPratt((a - 0.5) / (n * p)) + p * peizerPratt((b - 0.5) / (n * q)));
  return clip(normalCdf(-z) + more, 0, 1);
}

/** Where an increasing function has the value `target` from `low` to `high`, from a guess: by the
 *  Illinois form of regula falsi (Dowell and Jarratt 1971), with bisection where it is slow. */
function root(f, target, low, high, guess) {
  let [a, b, fa, fb] = [low, high, NaN, NaN];
  let at = clip(guess, low + 0.02 * (high - low), high - 0.02 * (high - low));
  let side = 0;
  for (let round = 0; round < 80 && b - a > 1e-9; round++) {
    const value = f(at) - target;
    if (value === 0) return at;
    if (value > 0) {
      [b, fb] = [at, value];
      if (side > 0) fa *= 0.5;
      side = 1;
    } else {
      [a, fa] = [at, value];
      if (side < 0) fb *= 0.5;
      side = -1;
    }
    at = (a * fb - b * fa) / (fb - fa);
    if (!(at > a && at < b) || round % 8 === 7) at = 0.5 * (a + b);
  }
  return at;
}

// -- heads: heads/continuous.py, counts.py and quantiles.py ---------------------------------------

const SMALLEST = 1e-4;
const GAP = Math.log(Math.expm1(0.5));

/** Quantiles of a distribution that is given by its quantiles, at other levels. */
function atLevel(given, quantiles, from, level) {
  const last = given.length - 1;
  if (level <= given[0]) {
    const scale = given[0] / (given[1] - given[0]) * (quantiles[from + 1] - quantiles[from]);
    return quantiles[from] + scale * Math.log(level / given[0]);
  }
  if (level >= given[last]) {
    const scale = (1 - given[last]) / (given[last] - given[last - 1])
      * (quantiles[from + last] - quantiles[from + last - 1]);
    return quantiles[from + last] - scale * Math.log((1 - level) / (1 - given[last]));
  }
  let i = 0;
  while (given[i + 1] < level) i++;
  const share = (level - given[i]) / (given[i + 1] - given[i]);
  return quantiles[from + i] + share * (quantiles[from + i + 1] - quantiles[from + i]);
}

class Head {
  /** The raw number that, with the shift, is the feedback. */
  location = 0;

  /** The input of a path's next step. */
  observable(value) {
    return value;
  }
}

class QuantilesHead extends Head {
  constructor({ levels, start }) {
    super();
    Object.assign(this, { levels, start, location: levels.length >> 1 });
  }

  parameters(raw, shift) {
    const [m, found] = [this.location, new Float64Array(raw.length)];
    found[m] = raw[m] + shift;
    for (let i = m - 1; i >= 0; i--) {
      found[i] = found[i + 1] - softplus(raw[i] + this.start[i]) - SMALLEST;
    }
    for (let i = m + 1; i < raw.length; i++) {
      found[i] = found[i - 1] + softplus(raw[i] + this.start[i - 1]) + SMALLEST;
    }
    return found;
  }

  quantile(parameters, level) {
    return atLevel(this.levels, parameters, 0, level);
  }
}

class NormalHead extends Head {
  parameters(raw, shift) {
    return [raw[0] + shift, softplus(raw[1] + GAP) + SMALLEST];
  }

  quantile([mean, scale], level) {
    return mean + scale * normalQuantile(level);
  }
}

class StudentHead extends NormalHead {
  parameters(raw, shift) {
    return [...super.parameters(raw, shift), 2.5 + 5 * Math.exp(clip(raw[2], -6, 5))];
  }

  quantile([median, scale, freedom], level) {
    return median + scale * studentQuantile(clip(level, LEAST_LEVEL, 1 - LEAST_LEVEL), freedom);
  }
}

/** Counts on the scale (log1p(count / centre) - location) / scaling. */
class PoissonHead extends Head {
  constructor({ centre, location, scaling }) {
    super();
    Object.assign(this, { centre, offset: location, scaling });
  }

  fromLog(log) {
    return this.centre * Math.expm1(Math.min(log, Math.log1p(2 ** 26 / this.centre)));
  }

  scaled(count) {
    return (Math.log1p(count / this.centre) - this.offset) / this.scaling;
  }

  parameters(raw, shift) {
    const log = this.offset + this.scaling * (raw[0] + shift);
    return [this.fromLog(softplus(10 * log) / 10) + 1e-6];
  }

  inverseSize() {
    return 0;
  }

  cdf(parameters, x) {
    return poissonCdf(x, parameters[0]);
  }

  quantile(parameters, level) {
    const [mean] = parameters;
    level = clip(level, LEAST_LEVEL, 1 - LEAST_LEVEL);
    const spread = 1 + this.inverseSize(parameters) * mean; // the variance over the mean
    const high = mean + 6 * Math.sqrt(mean * spread) + 30 * spread;
    const deviate = normalQuantile(level);
    const guess = (mean + 1) * Math.exp(deviate * Math.sqrt(Math.log1p(spread / mean))) - 1;
    const found = root((at) => this.cdf(parameters, Math.expm1(at) - 1), level, 0,
      Math.log1p(high + 1), Math.log1p(Math.max(guess + 1, 0)));
    return this.scaled(Math.expm1(found) - 1 + 0.5);
  }

  observable(value) {
    return this.scaled(Math.max(rint(this.fromLog(this.offset + this.scaling * value)), 0));
  }
}

class NegativeBinomialHead extends PoissonHead {
  parameters(raw, shift) {
    return [...super.parameters(raw, shift), 1 / clip(softplus(raw[1] + GAP), 1e-4, 30)];
  }

  inverseSize(parameters) {
    return 1 / parameters[1];
  }

  cdf(parameters, x) {
    return negativeBinomialCdf(x, ...parameters);
  }
}

const HEADS = {
  quantiles: QuantilesHead,
  normal: NormalHead,
  lognormal: NormalHead,
  logitnormal: NormalHead,
  student_t: StudentHead,
  poisson: PoissonHead,
  negative_binomial: NegativeBinomialHead,
};

// -- cells: recurrence/cells.py. Each returns the next leaves -------------------------------------

const CELLS = {
  simple_rnn({ kernel, recurrent_kernel, bias }, x, { h }) {
    const z = addProduct(affine(x, { kernel, bias }), h, recurrent_kernel);
    return { h: z.map(Math.tanh) };
  },
  gru({ kernel, recurrent_kernel, bias }, x, { h }) {
    const n = h.length;
    const ours = affine(x, { kernel, bias: bias.subarray(0, 3 * n) });
    const theirs = affine(h, { kernel: recurrent_kernel, bias: bias.subarray(3 * n) });
    const next = h.map((each, i) => {
      const z = sigmoid(ours[i] + theirs[i]);
      const r = sigmoid(ours[n + i] + theirs[n + i]);
      const candidate = Math.tanh(ours[2 * n + i] + r * theirs[2 * n + i]);
      return z * each + (1 - z) * candidate;
    });
    return { h: next };
  },
  lstm({ kernel, recurrent_kernel, bias }, x, { h, c }) {
    const n = h.length;
    const z = addProduct(affine(x, { kernel, bias }), h, recurrent_kernel);
    const next = { h: new Float64Array(n), c: new Float64Array(n) };
    for (let i = 0; i < n; i++) {
      next.c[i] = sigmoid(z[n + i]) * c[i] + sigmoid(z[i]) * Math.tanh(z[2 * n + i]);
      next.h[i] = sigmoid(z[3 * n + i]) * Math.tanh(next.c[i]);
    }
    return next;
  },
};

// -- one member of the network: networks/decoder.py -----------------------------------------------

const STEP_FUNCTIONS = 8;

/** Radial basis functions of a step, whose place is from 0 to 1. */
const stepFunctions = (place) => Array.from({ length: STEP_FUNCTIONS }, (_, i) =>
  Math.exp(-(((STEP_FUNCTIONS - 1) * place - i) ** 2)));

class Member {
  /** `weights` are by name, as in a model file, of one member. */
  constructor(network, head, weights) {
    Object.assign(this, { network, head, weights });
    const { units, layers, cell } = network;
    this.leaves = cell === "lstm" ? ["h", "c"] : ["h"];
    this.step = CELLS[cell];
    this.cells = Array.from({ length: layers }, (_, i) => {
      const of = (name) => weights[`decoder/cell/${i}/${name}`];
      return { kernel: of("kernel"), recurrent_kernel: of("recurrent_kernel"), bias: of("bias") };
    });
    this.kernel = weights["decoder/head/kernel"];
    this.bias = weights["decoder/head/bias"];
    [this.decay] = weights["decoder/head/residual"];
    this.units = units;
  }

  layer(name) {
    return { kernel: this.weights[`${name}/kernel`], bias: this.weights[`${name}/bias`] };
  }

  /** Encoded feature columns; `scope` is encoder, future or past. */
  encoded(scope, numeric, codes) {
    const own = this.weights;
    let x = new Float64Array(own[`${scope}/bias`]);
    if (numeric.length) addProduct(x, numeric, own[`${scope}/kernel`]);
    codes.forEach((code, i) => {
      const table = own[`${scope}/embedding_${i}`];
      for (let j = 0; j < x.length; j++) x[j] += table[code * x.length + j];
    });
    if (`${scope}/out/kernel` in own) x = affine(x.map(Math.tanh), this.layer(`${scope}/out`));
    return x.map(Math.tanh);
  }

  /** The state before the first step, from the encoded static features. */
  start(x) {
    const { layers, conditioned, depth, future, observation } = this.network;
    for (let i = 0; conditioned && i + 1 < depth; i++) {
      x = affine(x, this.layer(`initial/trunk_${i}`)).map(Math.tanh);
    }
    const stack = Array.from({ length: layers }, (_, i) => {
      const leaf = (name) => {
        const whole = `initial/${i}/${name}`;
        return conditioned ? affine(x, this.layer(whole)) : new Float64Array(this.weights[whole]);
      };
      return Object.fromEntries(this.leaves.map((name) => [name, leaf(name)]));
    });
    // The observation before the first step is 0, the mean.
    const pending = future ? [0, 1, ...new Array(observation - 2).fill(0)] : null;
    return { stack, last: 0, pending };
  }

  /** What X adds to the raw numbers of the head at each step. */
  constant(x) {
    const base = new Float64Array(this.bias);
    return this.network.static ? addProduct(base, x, this.kernel, this.units) : base;
  }

  raw({ stack }, base) {
    const top = stack[stack.length - 1].h;
    return addProduct(new Float64Array(base), top, this.kernel);
  }

  /** One step. Without future covariates the distribution is known before the step, and with them
   *  after it.
   *
   *  `choose(parameters)` gives the observation [value, flag, past covariates...]; `rest` are the
   *  other inputs. Returns the next state. */
  advance(state, base, rest, choose) {
    const [head, future] = [this.head, this.network.future > 0];
    let [raw, shift] = [this.raw(state, base), this.decay * state.last];
    const feedback = raw[head.location] + shift;
    const seen = future ? state.pending : choose(head.parameters(raw, shift));
    const last = seen[1] > 0 ? seen[0] : feedback;
    let x = [last, ...seen.slice(1), ...rest];
    const stack = state.stack.map((leaves, i) => {
      const next = this.step(this.cells[i], x, leaves);
      x = next.h;
      return next;
    });
    if (!future) return { stack, last, pending: null };
    [raw, shift] = [this.raw({ stack }, base), this.decay * last];
    return { stack, last, pending: choose(head.parameters(raw, shift)) };
  }
}

// -- feature columns and targets: tables/ ---------------------------------------------------------

/** Feature columns as standardised numbers, with a flag for each, and codes. */
function encodedCells({ numeric, categorical }, cells) {
  const numbers = new Float64Array(2 * numeric.length);
  numeric.forEach(({ name, centre, mean, gain, limit }, i) => {
    const value = cells[name];
    if (value === null || value === undefined) {
      numbers[numeric.length + i] = 1;
      return;
    }
    const line = centre > 0 ? Math.log1p(Math.max(value, 0) / centre) : value;
    numbers[i] = Math.fround(clip((line - mean) * gain, -limit, limit));
  });
  const codes = categorical.map(({ name, codes: known, missing, never_seen: other }) => {
    const value = cells[name];
    if (value === null || value === undefined) return missing;
    return Object.hasOwn(known, value) ? known[value] : other;
  });
  return { numbers, codes };
}

const oneHot = ({ numbers, codes }, categories) => {
  const found = [...numbers];
  for (let i = 0; i < categories.length; i += 2) {
    found.push(codes[categories[i]] === categories[i + 1] ? 1 : 0);
  }
  return found;
};

const EXPONENT = 470;

const TO_LINE = {
  none: (y) => y,
  log: (y, { centre }) => Math.log1p(y / centre),
  counts: (y, { centre }) => Math.log1p(y / centre),
  positive: (y, { centre }) => Math.log(y / centre),
  logit: (y, { centre, low, high }) => {
    const v = (y - low) / (high - low);
    return Math.log((v + centre) / (1 - v + centre));
  },
};
const expm1 = (u, { centre }) => Math.expm1(clip(u, -EXPONENT, EXPONENT)) * centre;
const FROM_LINE = {
  none: (u) => u,
  log: expm1,
  counts: (u, target) => rint(expm1(u, target)),
  positive: (u, { centre }) => Math.exp(clip(u, -EXPONENT, EXPONENT)) * centre,
  logit: (u, { centre, low, high }) =>
    low + (high - low) * ((0.5 + 0.5 * Math.tanh(0.5 * u)) * (1 + 2 * centre) - centre),
};

/** One target: its transform, and its scaling at each step. */
class Target {
  constructor(about) {
    Object.assign(this, about);
    this.steps = about.location.length;
  }

  at(step) {
    return Math.min(step, this.steps - 1);
  }

  /** Whether y is a value that the target can have. */
  takes(y) {
    if (!Number.isFinite(y)) return false;
    if (this.transform === "positive") return y > 0;
    if (this.transform === "counts" && (y !== Math.round(y) || y > this.most)) return false;
    if (this.transform === "logit") return y >= this.low && y <= this.high;
    return this.transform === "none" || y >= 0;
  }

  scaled(y, step) {
    const at = this.at(step);
    const z = (TO_LINE[this.transform](y, this) - this.location[at]) / this.scaling[at];
    return Math.fround(clip(z, -this.limit, this.limit));
  }

  onLine(z, step) {
    const at = this.at(step);
    return z * this.scaling[at] + this.location[at];
  }

  value(line) {
    return clip(FROM_LINE[this.transform](line, this), this.low ?? -Infinity, this.high ?? Infinity)
      + 0;
  }
}

// -- analogues: forecast/analogues.py -------------------------------------------------------------

const WINDOW = 100;
const NEAREST = 100;
const GRAIN = 1e-6;

class Analogues {
  constructor(arrays, window = WINDOW) {
    const own = (name) => arrays[`analogues/${name}`];
    this.window = window;
    [this.items, this.steps] = own("y").shape;
    this.features = own("x").shape[1];
    for (const name of ["categories", "gaps", "basis", "x", "y", "fold", "metric"]) {
      this[name] = own(name).values;
    }
    [this.ridge] = own("ridge").values;
    const parts = ["centre", "kernel", "bias", "covariance"];
    this.paths = Array.from({ length: own("paths/bias").shape[0] }, (_, i) =>
      Object.fromEntries(parts.map((name) => [name, part(own(`paths/${name}`), i)])));
    // The gaps of training items are filled by the mean of the linear model.
    const filled = own("filled").values;
    let next = 0;
    this.filled = this.y.map((each) => (Number.isNaN(each) ? filled[next++] : each));
    this.known = -1; // the prefix length of what is kept
  }

  row(values, item, width = this.steps) {
    return values.subarray(item * width, (item + 1) * width);
  }

  statics(encoded) {
    const raw = oneHot(encoded, this.categories);
    return addProduct(new Float64Array(this.features), raw, this.basis).map(Math.fround);
  }

  /** Whether no static feature is missing that hardly any training item lacked. */
  usable({ numbers, codes }) {
    const n = numbers.length / 2;
    const listed = codes.map((code, column) => {
      for (let i = 0; i < this.categories.length; i += 2) {
        if (this.categories[i] === column && this.categories[i + 1] === code) return true;
      }
      return false;
    });
    const gaps = [...numbers.subarray(n).map((flag) => (flag > 0 ? 1 : 0)),
      ...listed.map((there) => (there ? 0 : 1))];
    return !gaps.some((gap, i) => gap && !this.gaps[i]);
  }

  /** What was kept is of prefixes of one length. */
  keep(known) {
    if (known === this.known) return;
    [this.known, this.factors, this.left] = [known, new Map(), new Map()];
  }

  /** The mean of a linear model at every step, given the observations at the steps `seen`. */
  mean(path, x, y, seen) {
    const [steps, own] = [this.steps, this.paths[path]];
    const centred = x.map((each, i) => each - own.centre[i]);
    const mean = addProduct(new Float64Array(own.bias), centred, own.kernel);
    const at = seen.slice(-this.window);
    if (!at.length) return mean;
    const key = `${path}/${at}`;
    if (!this.factors.has(key)) {
      this.factors.set(key, cholesky(at.length, (i, j) =>
        own.covariance[at[i] * steps + at[j]] + (i === j ? this.ridge : 0)));
    }
    const solved = solve(this.factors.get(key), at.map((step) => y[step] - mean[step]));
    at.forEach((step, i) => {
      for (let t = 0; t < steps; t++) mean[t] += solved[i] * own.covariance[step * steps + t];
    });
    return mean;
  }

  /** The residuals of a training item given its first `known` steps, from the linear model that was
   *  fitted without it. */
  residuals(item) {
    if (!this.left.has(item)) {
      const [x, y] = [this.row(this.x, item, this.features), this.row(this.y, item)];
      const seen = [];
      for (let t = 0; t < this.known; t++) if (!Number.isNaN(y[t])) seen.push(t);
      const mean = this.mean(this.fold[item], Array.from(x), y, seen);
      this.left.set(item, y.map((each, t) => each - mean[t]));
    }
    return this.left.get(item);
  }

  /** The nearest training items of a row with a prefix of `known` steps, and their weights. */
  nearest(x, y, seen, known) {
    this.keep(known);
    const mean = this.mean(this.paths.length - 1, Array.from(x), y, seen);
    const ours = mean.map((each, t) => (seen.includes(t) ? y[t] : each)).subarray(0, known);
    const lags = this.metric.length - this.features;
    const weight = Array.from(ours, (_, t) =>
      Math.exp(this.metric[this.features + Math.min(known - 1 - t, lags - 1)]));
    const ofX = Array.from(x, (_, i) => Math.exp(this.metric[i]));
    // Distances are rounded, so that ties are the same on every machine.
    const rank = new Float64Array(this.items);
    for (let item = 0; item < this.items; item++) {
      let distance = 0;
      for (let i = 0; i < x.length; i++) {
        distance += ofX[i] * (x[i] - this.x[item * x.length + i]) ** 2;
      }
      for (let t = 0; t < known; t++) {
        distance += weight[t] * (ours[t] - this.filled[item * this.steps + t]) ** 2;
      }
      rank[item] = rint(Math.min(distance, 1e6) / GRAIN);
    }
    const count = Math.min(NEAREST, this.items);
    const most = new Float64Array(rank).sort()[count - 1];
    const within = [...rank.keys()].filter((item) => rank[item] <= most);
    const items = within.sort((a, b) => rank[a] - rank[b] || a - b).slice(0, count);
    const weights = items.map((item) =>
      Math.exp(Math.max((rank[items[0]] - rank[item]) * GRAIN, -600)));
    const total = sum(weights);
    return { items, weights: weights.map((each) => each / total), mean };
  }

  /** Quantiles at `levels` of the steps from `known` to below `until`: (until, levels). */
  forecast(near, known, until, levels) {
    const found = new Float64Array(until * levels.length);
    const left = near.items.map((item) => this.residuals(item));
    for (let t = known; t < until; t++) {
      const sample = [];
      left.forEach((each, i) => {
        if (!Number.isNaN(each[t])) sample.push([each[t], near.weights[i] + 1e-9]);
      });
      sample.sort((a, b) => a[0] - b[0]);
      const total = Math.max(sum(sample.map(([, share]) => share)), 1e-30);
      let upto = 0;
      const middle = sample.map(([, share]) => {
        upto += share;
        return (upto - 0.5 * share) / total;
      });
      levels.forEach((level, q) => {
        let below = 0;
        while (below < middle.length && middle[below] < level) below++;
        const after = Math.min(below, middle.length - 1);
        const before = Math.max(after - 1, 0);
        let value = 0;
        if (sample.length) {
          const share = (level - middle[before]) / Math.max(middle[after] - middle[before], 1e-12);
          value = sample[before][0] + (sample[after][0] - sample[before][0]) * clip(share, 0, 1);
        }
        found[t * levels.length + q] = near.mean[t] + value;
      });
    }
    return found;
  }
}

/** The Cholesky factor of a symmetric positive definite matrix, rows one after the other. */
function cholesky(size, entry) {
  const factor = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      let total = entry(i, j);
      for (let k = 0; k < j; k++) total -= factor[i * size + k] * factor[j * size + k];
      factor[i * size + j] = i === j ? Math.sqrt(total) : total / factor[j * size + j];
    }
  }
  return factor;
}

function solve(factor, right) {
  const [size, x] = [right.length, new Float64Array(right)];
  for (let i = 0; i < size; i++) {
    for (let k = 0; k < i; k++) x[i] -= factor[i * size + k] * x[k];
    x[i] /= factor[i * size + i];
  }
  for (let i = size - 1; i >= 0; i--) {
    for (let k = i + 1; k < size; k++) x[i] -= factor[k * size + i] * x[k];
    x[i] /= factor[i * size + i];
  }
  return x;
}

// -- the engine -----------------------------------------------------------------------------------

class Engine {
  /** `model` is the description. */
  constructor(model) {
    this.model = model;
    this.levels = model.quantiles.levels;
    this.targets = model.targets.map((each) => new Target(each));
    this.count = this.targets.length;
    const arrays = unpacked(model.arrays, model.data);
    const { network } = model;
    const named = Object.entries(arrays).filter(([name]) => name.startsWith("network/"));
    const head = new HEADS[network.head](network);
    this.members = Array.from({ length: network.members }, (_, i) => new Member(network, head,
      Object.fromEntries(named.map(([name, each]) => [name.slice(8), part(each, i)]))));
    this.positions = model.steps.longest * this.count;
    this.arrays = Object.fromEntries(
      Object.entries(arrays).map(([name, each]) => [name, each.values]));
    this.stacked = "stacking/known" in arrays;
    this.analogues = "analogues/y" in arrays ? new Analogues(arrays, model.window) : null;
    this.middle = this.levels.indexOf(0.5);
    this.absent = new Array(network.past).fill(0); // past covariates that are not known
  }

  /** What an item is, as the network takes it.
   *
   *  An item has `static`, cells by column; `y`, for each step a list with a value for each target,
   *  null where nothing was observed; `until`, the number of steps; and `future` and `past`, for
   *  each step cells by column, null where they are missing. */
  read(item) {
    const { model, count } = this;
    const encoded = encodedCells(model.static, item.static);
    let steps = item.y.length;
    while (steps && item.y[steps - 1].every((value) => value === null)) steps--;
    const known = steps * count;
    const [value, seen, latest] = [new Float64Array(known), [], this.targets.map(() => null)];
    for (let position = 0; position < known; position++) {
      const [step, index] = [Math.floor(position / count), position % count];
      const y = item.y[step][index];
      if (y === null) continue;
      const z = this.targets[index].scaled(y, step);
      latest[index] = { step, line: this.targets[index].onLine(z, step) };
      // With several targets values far outside those of training are limited as inputs.
      const most = this.targets[index].input_limit;
      value[position] = count > 1 ? Math.fround(clip(z, -most, most)) : z;
      seen.push(position);
    }
    // A step that training did not observe needs the next one that it did.
    const reach = count * Math.max(steps, ...this.targets.map(({ observed }) => {
      const later = observed.slice(item.until - 1).findIndex((each) => each);
      return item.until + Math.max(later, 0);
    }));
    return { item, encoded, known, value, seen, latest, reach };
  }

  /** The states and the quantiles of the network at every position: Float64Array
   *  (reach, levels). */
  network(read) {
    const { encoded, known, value, reach } = read;
    const seen = new Set(read.seen);
    const [levels, found] = [this.levels, new Float64Array(reach * this.levels.length)];
    const members = this.members.map((member) => {
      const numbers = piecewise(encoded.numbers, this.model.network);
      const featured = "encoder/bias" in member.weights;
      const x = featured ? member.encoded("encoder", numbers, encoded.codes) : [];
      return { member, x, base: member.constant(x), states: [member.start(x)] };
    });
    const inputs = members.map(({ member, x }) => this.inputs(member, x, read));
    const size = this.members.length;
    for (let position = 0; position < reach; position++) {
      members.forEach(({ member, base, states }, m) => {
        const { rest, past } = inputs[m](position);
        const choose = (parameters) => {
          levels.forEach((level, q) => {
            found[position * levels.length + q] += member.head.quantile(parameters, level) / size;
          });
          const there = position < known && seen.has(position);
          return [there ? value[position] : 0, there ? 1 : 0, ...past];
        };
        states.push(member.advance(states[position], base, rest, choose));
      });
    }
    return { quantiles: found, members, inputs };
  }

  /** A function: of a position the inputs of a member beside the observation, and the past
   *  covariates of the observation. */
  inputs(member, x, { item, known }) {
    const { network, future, past } = this.model;
    const encode = (scope, { numbers, codes }) => [1, ...member.encoded(scope, numbers, codes)];
    const kept = [];
    return (position) => {
      if (kept[position]) return kept[position];
      const [step, target] = [Math.floor(position / this.count), position % this.count];
      const rest = stepFunctions(Math.min(step + 1, network.horizon) / network.horizon);
      if (this.count > 1) this.targets.forEach((_, i) => rest.push(i === target ? 1 : 0));
      if (network.future) {
        const cells = item.future[step] ?? {}; // beyond the forecast they are unknown
        rest.push(...encode("future", encodedCells(future, cells)));
      }
      if (network.static) rest.push(...x);
      // Past covariates are observed with the last target of a step of the prefix.
      const given = item.past[step] ?? {};
      const there = position < known && target === this.count - 1
        && Object.values(given).some((each) => each !== null);
      const beside = there ? encode("past", encodedCells(past, given)) : this.absent;
      kept[position] = { rest, past: beside };
      return kept[position];
    };
  }

  /** The network, the analogues and the calibration together, scaled: (reach, levels). */
  combined(read, network) {
    const { arrays, count, levels } = this;
    const found = new Float64Array(network);
    if (!this.stacked) return { quantiles: found, near: null };
    const { known, seen, value, encoded, reach } = read;
    const [size, steps] = [levels.length, this.positions];
    const missing = this.missing(encoded);
    const alone = missing.length > 0;
    const fitted = fittedAt(arrays["stacking/known"], known);
    let near = null;
    const usable = this.analogues !== null && !alone && this.analogues.usable(encoded);
    if (usable && known < steps) {
      const x = this.analogues.statics(encoded);
      near = this.analogues.nearest(x, value, seen, known);
      const until = Math.min(reach, steps);
      const other = this.analogues.forecast(near, known, until, levels);
      const weight = arrays["stacking/weight"][fitted];
      for (let i = known * size; i < until * size; i++) {
        found[i] = weight * network[i] + (1 - weight) * other[i];
      }
      // Beyond the longest training item the quantiles move as at its last step.
      for (let position = steps; position < reach; position++) {
        const last = steps - count + position % count;
        for (let q = 0; q < size; q++) {
          const moved = found[last * size + q] - network[last * size + q];
          found[position * size + q] = network[position * size + q] + moved;
        }
      }
    }
    if (usable && known >= steps) return { quantiles: found, near };
    for (let position = known; position < reach; position++) {
      let own = found.subarray(position * size, (position + 1) * size);
      if (this.analogues !== null) own.sort();
      const offset = alone
        ? this.missingOffset(missing, known)
        : this.offset(fitted, position - known);
      const width = Math.max(own[levels.indexOf(0.9)] - own[levels.indexOf(0.1)], 1e-6);
      own.set(own.map((each, q) => each + offset[q] * width).sort());
      if ("dependence/spread" in arrays) {
        const spread = arrays["dependence/spread"][fittedAt(arrays["dependence/known"], known)];
        const middle = own[this.middle];
        own.set(own.map((each) => middle + spread * (each - middle)));
      }
    }
    return { quantiles: found, near };
  }

  /** The static features that are missing and rarely were in training, by their index. */
  missing({ numbers, codes }) {
    const often = this.arrays["missing/often"];
    if (!often) return [];
    const n = numbers.length / 2;
    const gaps = [...numbers.subarray(n).map((flag) => (flag > 0 ? 1 : 0)),
      ...codes.map((code) => (code < this.model.first_category ? 1 : 0))];
    return gaps.flatMap((gap, i) => (gap && !often[i] ? [i] : []));
  }

  missingOffset(missing, known) {
    const often = this.arrays["missing/often"].length;
    const which = missing.length > 1 ? often : missing[0];
    const at = fittedAt(this.arrays["missing/known"], known) * (often + 1) + which;
    const size = this.levels.length;
    return this.arrays["missing/offset"].subarray(at * size, (at + 1) * size);
  }

  offset(fitted, ahead) {
    const [steps, size] = [this.positions, this.levels.length];
    const last = steps - this.count + ahead % this.count;
    const at = fitted * steps + Math.min(ahead, last);
    return this.arrays["stacking/offset"].subarray(at * size, (at + 1) * size);
  }

  /** Scaled quantiles (reach, n) in the units of y, for each target: (until, n). Steps at which no
   *  training item was observed are interpolated. */
  inUnits(read, scaled, n) {
    const { count } = this;
    const { item, latest, reach } = read;
    const known = read.known / count;
    return this.targets.map((target, index) => {
      const there = []; // the steps between which is interpolated, and their values
      const line = (step) => Float64Array.from({ length: n }, (_, q) =>
        target.onLine(scaled[(step * count + index) * n + q], step));
      if (latest[index] !== null) {
        const { step, line: value } = latest[index];
        there.push({ step, values: new Float64Array(n).fill(value) });
      }
      const own = [];
      for (let step = known; step < reach / count; step++) {
        own[step] = line(step);
        if (target.observed[target.at(step)]) there.push({ step, values: own[step] });
      }
      const found = new Float64Array(item.until * n).fill(NaN);
      for (let step = known; step < item.until; step++) {
        let values = own[step];
        if (!target.observed[target.at(step)] && there.length) {
          const before = there.filter((each) => each.step < step).at(-1);
          const after = there.find((each) => each.step > step);
          const [low, high] = [before ?? after, after ?? before];
          const share = (step - low.step) / Math.max(high.step - low.step, 1);
          values = low.values.map((each, q) => (1 - share) * each + share * high.values[q]);
        }
        for (let q = 0; q < n; q++) found[step * n + q] = target.value(values[q]);
      }
      return found;
    });
  }

  /** The forecast of an item.
   *
   *  Returns `known`, the prefix length in steps; `quantiles`, for each target a Float64Array
   *  (until, levels) in the units of y, NaN on the prefix; `near`, the nearest training items and
   *  their weights in the forecast; and what `state` and `paths` need. */
  forecast(item, levels = this.levels) {
    const read = this.read(item);
    const network = this.network(read);
    const { quantiles: scaled, near } = this.combined(read, network.quantiles);
    const quantiles = this.inUnits(read, this.atLevels(scaled, levels), levels.length);
    let weights = { items: [], weights: [] };
    if (near !== null) {
      const share = 1 - this.arrays["stacking/weight"][
        fittedAt(this.arrays["stacking/known"], read.known)];
      weights = { items: near.items, weights: near.weights.map((each) => each * share) };
    }
    return { known: read.known / this.count, quantiles, near: weights, read, network, scaled };
  }

  atLevels(scaled, levels) {
    const size = this.levels.length;
    const found = new Float64Array(scaled.length / size * levels.length);
    for (let i = 0; i < scaled.length / size; i++) {
      levels.forEach((level, q) => {
        const at = this.levels.indexOf(level);
        found[i * levels.length + q] = at >= 0
          ? scaled[i * size + at]
          : atLevel(this.levels, scaled, i * size, level);
      });
    }
    return found;
  }

  /** The observations of a training item in the units of y, for each target, NaN where there are
   *  none. */
  training(item) {
    const own = this.analogues.row(this.analogues.y, item);
    return this.targets.map((target, index) => Float64Array.from(
      { length: this.model.steps.longest },
      (_, step) => target.value(target.onLine(own[step * this.count + index], step))));
  }

  /** The leaves after a step: for each layer and name, the values of every member. */
  state({ network }, step) {
    const [first] = network.members;
    const stacks = network.members.map(({ states }) => states[step * this.count].stack);
    return stacks[0].flatMap((leaves, layer) => first.member.leaves.map((name) => (
      { layer, name, members: stacks.map((stack) => stack[layer][name]) })));
  }

  /** Joint sample paths of a forecast: for each target a list of Float64Array (until), NaN on the
   *  prefix and after the end of a path.
   *
   *  `uniform(position, path)` and, for the ends, `ending(position, path)` are random numbers from
   *  0 to 1. `number` is a multiple of the number of members. */
  paths(forecast, number, uniform, ending) {
    const { read, network, scaled } = forecast;
    const { known, reach, item } = read;
    const size = this.members.length;
    const drawn = Array.from({ length: number }, (_, path) => {
      const m = path % size;
      const { member, base, states } = network.members[m];
      const values = new Float64Array(reach);
      let state = states[known];
      for (let position = known; position < reach; position++) {
        const { rest } = network.inputs[m](position);
        state = member.advance(state, base, rest, (parameters) => {
          const level = clip(uniform(position, path), LEAST_LEVEL, 1 - LEAST_LEVEL);
          values[position] = member.head.quantile(parameters, level);
          return [member.head.observable(values[position]), 1, ...this.absent];
        });
      }
      return values;
    });
    const levels = Array.from({ length: number }, (_, i) => (i + 0.5) / number);
    const marginal = this.inUnits(read, this.atLevels(scaled, levels), number);
    const found = this.targets.map(() => drawn.map(() => new Float64Array(item.until).fill(NaN)));
    const ends = "endings/weights" in this.arrays;
    let alive = drawn.map((_, path) => path);
    for (let step = known / this.count; step < item.until; step++) {
      this.targets.forEach((_, index) => {
        const position = step * this.count + index;
        if (ends && step) {
          alive = alive.filter((path) => {
            const before = step === known ? this.lastLine(forecast)
              : TO_LINE[this.targets[0].transform](found[0][path][step - 1], this.targets[0]);
            return ending(position, path) >= this.ending(read.encoded, step, before);
          });
        }
        const order = [...alive].sort((a, b) => drawn[a][position] - drawn[b][position]);
        order.forEach((path, rank) => {
          const place = rint((rank + 0.5) / order.length * number - 0.5);
          const at = step * number + clip(place, 0, number - 1);
          found[index][path][step] = marginal[index][at];
        });
      });
    }
    return found;
  }

  /** The last input before a path, on the real line: the mean of the members. */
  lastLine({ read, network }) {
    const states = network.members.map((each) => each.states[read.known]);
    const last = sum(states.map(({ pending, last: own }) => (pending ? pending[0] : own)));
    return this.targets[0].onLine(last / states.length, Math.max(read.known - 1, 0));
  }

  /** The probability that a step, from 1, is the last one, given its value on the real line:
   *  forecast/endings.py. */
  ending(encoded, step, line) {
    const own = (name) => this.arrays[`endings/${name}`];
    const z = clip((line - own("scale")[0]) / own("scale")[1], -5, 5);
    const functions = stepFunctions(Math.min(step / this.model.steps.longest, 1));
    const knots = Array.from(own("knots"), (knot) => Math.max(z - knot, 0));
    const x = oneHot(encoded, own("categories"));
    const inputs = [1, ...functions, z, ...knots, ...x];
    const logit = sum(inputs.map((each, i) => each * own("weights")[i]));
    return 1 / (1 + Math.exp(-clip(logit, -30, 30)));
  }
}

/** Which of the fitted prefix lengths is used for a length: the next lower one. */
function fittedAt(fitted, known) {
  let at = 0;
  while (at + 1 < fitted.length && fitted[at + 1] <= known) at++;
  return at;
}

/** Columns of which an affine map is piecewise linear in each divided feature. */
function piecewise(numbers, { edges, divided }) {
  if (!divided.length) return numbers;
  const found = [...numbers];
  for (let i = 0; i + 1 < edges.length; i++) {
    const [low, width] = [edges[i], edges[i + 1] - edges[i]];
    const zero = clip(-low / width, 0, 1);
    divided.forEach((j) => found.push(0.5 * (clip((numbers[j] - low) / width, 0, 1) - zero)));
  }
  return found;
}
