// SQS for tests: an emulator that speaks its JSON protocol, in this process. AWS itself is not there.

import { SQS } from "@aws-sdk/client-sqs";
import { startFauxqs } from "fauxqs";

export interface SqsServer {
  endpoint: string;
  client: SQS;
  close(): Promise<void>;
}

const CREDENTIALS = { accessKeyId: "any", secretAccessKey: "any" };
export const REGION = "us-east-1";

/** A client whose retries do not outlast a test. */
export function sqsClient(endpoint: string): SQS {
  return new SQS({ endpoint, region: REGION, credentials: CREDENTIALS, maxAttempts: 2 });
}

export async function startSqs(): Promise<SqsServer> {
  const server = await startFauxqs({ port: 0, logger: false, host: "127.0.0.1" });
  const endpoint = `http://127.0.0.1:${server.port}`;
  const client = sqsClient(endpoint);
  return {
    endpoint,
    client,
    async close() {
      client.destroy();
      await server.stop();
    },
  };
}
