// Koa 2 under its alias; what the tests use of it has the types of Koa 3.

declare module "koa2" {
  import Koa from "koa";
  export = Koa;
}
