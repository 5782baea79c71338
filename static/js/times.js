// Moments in the words and the zone of the reader: "just now", "5 min ago", "14:02", "20 Nov 14:02".
import { onContent } from "./swaps.js";

const hour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

function words(moment, now) {
  const minutes = (now - moment) / 60000;
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${Math.floor(minutes)}\u202fmin ago`;
  if (moment.toDateString() === now.toDateString()) return `today ${hour.format(moment)}`;
  return day.format(moment);
}

function refresh() {
  const now = new Date();
  for (const element of document.querySelectorAll("time[data-time]")) {
    const moment = new Date(element.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    const text = words(moment, now);
    if (element.textContent !== text) element.textContent = text;
    if (!element.title) element.title = full.format(moment);
  }
}

onContent(refresh);
setInterval(refresh, 30000);
