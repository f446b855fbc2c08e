// Asks for the admin token.

import { useId, useState } from "preact/hooks";
import { api } from "../api.ts";
import { Icon } from "../parts/icon.tsx";

export function Login({ onLoggedIn }: { onLoggedIn: () => Promise<void> }) {
  const [token, setToken] = useState("");
  const [failure, setFailure] = useState<string>();
  const [isAsking, setAsking] = useState(false);
  const [fieldId, failureId] = [useId(), useId()];
  const submit = async (event: Event) => {
    event.preventDefault();
    setAsking(true);
    try {
      await api.logIn(token);
      await onLoggedIn();
    } catch (error) {
      setFailure((error as Error).message);
    } finally {
      setAsking(false);
    }
  };
  return (
    <main class="lonely">
      <form class="login" onSubmit={(event) => void submit(event)}>
        <h1>
          <Icon name="mark" /> Semel
        </h1>
        {/* For password managers, which keep tokens by a name. */}
        <input type="text" autocomplete="username" value="admin" hidden readOnly />
        <label for={fieldId}>Admin token</label>
        <input
          id={fieldId}
          type="password"
          autocomplete="current-password"
          required
          value={token}
          aria-invalid={failure !== undefined}
          aria-describedby={failure === undefined ? undefined : failureId}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
        {failure && (
          <p id={failureId} class="failure" role="alert">
            {failure}
          </p>
        )}
        <button type="submit" class="primary" disabled={isAsking}>
          Log in
        </button>
        <p class="hint">
          Whoever runs this knows it: <span class="mono nowrap">SEMEL_ADMIN_TOKEN</span>
        </p>
      </form>
    </main>
  );
}
