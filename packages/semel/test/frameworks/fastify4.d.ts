// Fastify 4 under its alias; what the tests use of it has the types of Fastify 5.

declare module "fastify4" {
  export { default, fastify } from "fastify";
}
