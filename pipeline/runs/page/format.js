/* Numbers, times and names as people read them. */

export const MINUS = "−";

export function count(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size < 10_000) return value.toLocaleString("en", {maximumFractionDigits: size < 10 ? 2 : 0});
  for (const [unit, factor] of [
    ["K", 1e3],
    ["M", 1e6],
    ["B", 1e9],
    ["T", 1e12],
  ]) {
    if (size < factor * 1000 || unit === "T") return `${trim((value / factor).toPrecision(3))}${unit}`;
  }
}

function trim(text) {
  return text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text;
}

export function bytes(value) {
  for (const unit of ["B", "KB", "MB", "GB"]) {
    if (Math.abs(value) < 1024) return `${unit === "B" ? value.toFixed(0) : trim(value.toPrecision(4))} ${unit}`;
    value /= 1024;
  }
  return `${trim(value.toPrecision(4))} TB`;
}

/** 75 → "1m 15s" */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${Math.round(seconds)}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) {
    const rest = Math.round(seconds % 60);
    return seconds < 600 && rest ? `${Math.floor(seconds / 60)}m ${rest}s` : `${minutes}m`;
  }
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours}h ${String(minutes % 60).padStart(2, "0")}m`;
  return `${Math.floor(hours / 24)}d ${hours % 24}h`;
}

export function ago(time, now = Date.now() / 1000) {
  const seconds = now - time;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}

export function clock(time) {
  const date = new Date(time * 1000);
  const options = {hour: "2-digit", minute: "2-digit"};
  if (Math.abs(date - Date.now()) > 20 * 3600 * 1000) Object.assign(options, {month: "short", day: "numeric"});
  return date.toLocaleString("en-GB", options);
}

/** A number with as many digits as matter. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("-", MINUS).replace("e+", "e");
  if (size >= 1000) return value.toLocaleString("en", {maximumFractionDigits: 0});
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 4).replace("-", MINUS);
}

export const percent = (value) => `${(value * 100).toFixed(1)}%`;

/** run_2026_01_31_12_00_first → "first · Jan 31, 12:00"; other names stay as they are. */
export function title(run) {
  const found = /^(run|sft_lima)_(\d{4})_(\d\d)_(\d\d)_(\d\d)_(\d\d)(?:_(.+))?$/.exec(run);
  if (!found) return run;
  const [, , year, month, day, hour, minute, name] = found;
  const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const when = `${months[month - 1] ?? month} ${Number(day)}${year === String(new Date().getFullYear()) ? "" : ` ${year}`}, ${hour}:${minute}`;
  if (name && /^\d+$/.test(name)) return `${when} (${name})`;
  return name ? `${name} · ${when}` : when;
}
