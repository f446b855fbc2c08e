// The previous major of NestJS, for tests that run against both.

import "reflect-metadata";

export * as common from "@nestjs/common";
export * as core from "@nestjs/core";
export * as platformExpress from "@nestjs/platform-express";
export * as platformFastify from "@nestjs/platform-fastify";
