/* Round positions for the marks of an axis. */

/** About `most` round numbers between `low` and `high`. */
export function linearTicks(low, high, most) {
  const step = roundStep((high - low) / Math.max(1, most));
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) ticks.push(index * step);
  return ticks.map((tick) => Number(tick.toPrecision(12)));
}

function roundStep(size) {
  const power = 10 ** Math.floor(Math.log10(size || 1));
  return [1, 2, 5, 10].find((factor) => factor * power >= size * 0.999) * power;
}

/** Powers of ten, with 2 and 5 between them if there are few. */
export function logTicks(low, high, most) {
  const first = Math.floor(Math.log10(low)),
    last = Math.ceil(Math.log10(high));
  for (const factors of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = first; power <= last; power++) {
      ticks.push(...factors.map((factor) => Number((factor * 10 ** power).toPrecision(2))));
    }
    const inside = ticks.filter((tick) => tick >= low * 0.9999 && tick <= high * 1.0001);
    if (inside.length <= most + 2) return inside.length > 1 ? inside : linearTicks(low, high, most);
  }
  const stride = Math.ceil((last - first) / most);
  return Array.from(
    {length: Math.floor((last - first) / stride) + 1},
    (_, index) => 10 ** (first + index * stride),
  ).filter((tick) => tick >= low && tick <= high);
}

const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Whole seconds, minutes, hours or days. */
export function timeTicks(low, high, most) {
  const size = (high - low) / Math.max(1, most);
  const step = SECONDS.find((seconds) => seconds >= size * 0.75) ?? Math.ceil(size / 86400) * 86400;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(tick);
  return ticks;
}

/** Digits that tell neighbouring ticks apart. */
export function tickText(tick, ticks) {
  if (tick === 0) return "0";
  const size = Math.abs(tick);
  for (const [unit, factor] of [
    ["B", 1e9],
    ["M", 1e6],
    ["K", 1e4],
  ]) {
    if (size >= factor) return `${Number((tick / (factor === 1e4 ? 1e3 : factor)).toPrecision(6))}${unit}`;
  }
  const gap = Math.min(...ticks.slice(1).map((next, index) => Math.abs(next - ticks[index])), Infinity);
  if (size < 1e-3)
    return tick
      .toExponential(gap < size * 0.9 && gap > 0 ? 1 : 0)
      .replace("-", "−")
      .replace(".0e", "e");
  return String(Number(tick.toPrecision(8))).replace("-", "−");
}
