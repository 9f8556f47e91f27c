/* The description of the API, with the key that was entered in the chat page. */

import {apiKey} from "./api.js";

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  requestInterceptor(request) {
    if (apiKey()) request.headers.Authorization ??= `Bearer ${apiKey()}`;
    return request;
  },
});
