// Hovering reads values off the figure. Without this script the page loses nothing: every tip is an SVG title too.
(() => {
  const tip = document.getElementById('tip');
  const zones = JSON.parse(document.getElementById('series').textContent);
  const twoDigits = (n) => String(n).padStart(2, '0');
  const place = (event) => {
    const { width, height } = tip.getBoundingClientRect();
    const beside = event.clientX + 16 + width > innerWidth ? event.clientX - 12 - width : event.clientX + 16;
    tip.style.transform = `translate(${Math.max(4, beside)}px, ${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 4))}px)`;
  };
  for (const title of document.querySelectorAll('svg.figure .tip > title')) {
    title.parentNode.dataset.tip = title.textContent;
    title.parentNode.setAttribute('aria-label', title.textContent);
    title.remove();
  }
  const at = (rows, step, time) => {
    let low = 0, high = rows.length;
    while (low < high) { const middle = (low + high) >> 1; rows[middle][0] <= time ? (low = middle + 1) : (high = middle); }
    return low && time < rows[low - 1][0] + step ? rows[low - 1][1] : null;
  };
  for (const svg of document.querySelectorAll('svg.figure')) {
    const { start, end, left, right, foot } = Object.fromEntries(Object.entries(svg.dataset).map(([k, v]) => [k, +v]));
    const cross = svg.querySelector('.cross');
    const leave = () => { tip.hidden = true; cross.classList.remove('on'); };
    svg.addEventListener('pointerleave', leave);
    svg.addEventListener('pointermove', (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const mark = event.target.closest('.tip');
      if (!mark && (point.y > foot || point.x < left || point.x > right)) return leave();
      cross.classList.toggle('on', point.x >= left && point.x <= right);
      cross.setAttribute('x1', point.x); cross.setAttribute('x2', point.x);
      if (mark) {
        tip.textContent = mark.dataset.tip;
      } else {
        const time = start + (point.x - left) / (right - left) * (end - start);
        const moment = new Date(time * 1000);
        const lines = zones.map((z) => [z.zone, at(z.rows, z.step, time)]).sort((a, b) => (b[1] ?? -1) - (a[1] ?? -1))
          .map(([zone, value]) => `${zone}  ${value === null ? 'unknown' : value.toFixed(0) + ' g/kWh'}`);
        tip.textContent = [`${twoDigits(moment.getUTCHours())}:${twoDigits(moment.getUTCMinutes())} UTC`, ...lines].join('\n');
      }
      tip.hidden = false;
      place(event);
    });
  }
})();
