"use strict";
// Without this script the page still reads and plays: it only replaces the browser's audio controls, sorts and marks.

for (const player of document.querySelectorAll(".player")) {
  const audio = player.querySelector("audio");
  const wave = player.querySelector(".wave");
  const seconds = Number(getComputedStyle(player).getPropertyValue("--duration"));
  const button = document.createElement("button");
  const name = audio.getAttribute("aria-label");
  button.type = "button";
  button.className = "play";
  button.innerHTML =
    '<svg class="start" viewBox="0 0 16 16" aria-hidden="true"><path d="M4.5 2.2v11.6L14 8z"/></svg>' +
    '<svg class="pause" viewBox="0 0 16 16" aria-hidden="true"><path d="M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z"/></svg>';
  button.setAttribute("aria-label", "Play " + name);
  const track = document.createElement("div");
  track.className = "track";
  const played = wave.cloneNode(true);
  played.classList.add("played");
  player.insertBefore(button, wave);
  player.insertBefore(track, wave);
  track.append(wave, played);
  player.classList.add("live");

  const draw = () => {
    track.style.setProperty("--progress", (100 * audio.currentTime) / (audio.duration || seconds) + "%");
    if (!audio.paused) requestAnimationFrame(draw);
  };
  const seek = (to) => {
    audio.currentTime = Math.min(Math.max(to, 0), audio.duration || seconds);
    draw();
  };
  button.addEventListener("click", () => (audio.paused ? audio.play() : audio.pause()));
  button.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") seek(audio.currentTime + 1);
    else if (event.key === "ArrowLeft") seek(audio.currentTime - 1);
    else return;
    event.preventDefault();
  });
  track.addEventListener("click", (event) => {
    const box = track.getBoundingClientRect();
    const to = ((event.clientX - box.left) / box.width) * (audio.duration || seconds);
    audio.play().then(() => seek(to));
  });
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    player.classList.add("playing");
    button.setAttribute("aria-label", "Pause " + name);
    draw();
  });
  for (const end of ["pause", "ended"]) {
    audio.addEventListener(end, () => {
      player.classList.remove("playing");
      button.setAttribute("aria-label", "Play " + name);
      draw();
    });
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const value = (row, at) => row.cells[at].dataset.value ?? row.cells[at].textContent.trim();
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" || (at > 0 && !head.hasAttribute("aria-sort"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => value(a, at).localeCompare(value(b, at), undefined, { numeric: true }));
      if (at > 0) rows.sort((a, b) => Number(value(a, at)) - Number(value(b, at)));
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}

const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
const mark = () => {
  let current;
  for (const section of document.querySelectorAll("main > section")) {
    if (section.getBoundingClientRect().top < Math.min(0.35 * innerHeight, 320)) current = section.id;
  }
  if (scrollY + innerHeight >= document.documentElement.scrollHeight - 2) current = [...links.keys()].pop();
  current ??= links.keys().next().value;
  for (const [id, link] of links) {
    if (id === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
};
addEventListener("scroll", mark, { passive: true });
mark();
