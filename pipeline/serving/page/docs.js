/* The description of the API, with the key that was entered in the chat page. */

import {apiKey} from "./api.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const showScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", showScheme);
showScheme();

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: false, // it would put a link inside each button
  requestInterceptor(request) {
    if (apiKey()) request.headers.Authorization ??= `Bearer ${apiKey()}`;
    return request;
  },
  /* What screen readers miss in Swagger UI: a landmark for the introduction, and headings without a gap. */
  onComplete() {
    document.querySelector(".information-container")?.setAttribute("role", "banner");
    for (const heading of document.querySelectorAll("h3.opblock-tag, .models > h4"))
      heading.setAttribute("aria-level", "2");
  },
});
