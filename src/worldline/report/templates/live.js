// Every five seconds, put in place what the server says now. What is folded open or ticked stays so.
const timer = setInterval(async () => {
  if (document.hidden) return;
  const answer = await fetch(location.href).catch(() => null);
  if (!answer || !answer.ok) return;
  const main = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  const old = document.querySelector("main");
  const opened = new Set([...old.querySelectorAll("details[open] > summary")].map((item) => item.textContent));
  const ticked = new Set([...old.querySelectorAll("input:checked")].map((item) => item.value));
  for (const item of main.querySelectorAll("summary")) item.parentElement.open = opened.has(item.textContent);
  for (const item of main.querySelectorAll("input")) item.checked = ticked.has(item.value);
  old.replaceWith(main);
  if (!("live" in main.dataset)) clearInterval(timer);
}, 5000);
