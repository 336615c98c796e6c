//! The gRPC contracts that Quire describes itself: messages, clients and servers, generated from `*.proto`.

/// Version 1 of the contract.
pub mod v1 {
    #![allow(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/quire.v1.rs"));
}

/// What sgl-model-gateway and llm-d call on vLLM, as far as Quire answers it.
pub mod engine {
    #![allow(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/vllm.grpc.engine.rs"));
}

/// The contracts themselves, as a `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::v1::{GenerateRequest, SamplingParams, TokenIds, generate_request::Prompt};

    #[test]
    fn an_absent_field_stays_absent() {
        let sampling = SamplingParams { temperature: Some(0.0), ..SamplingParams::default() };
        let request = GenerateRequest {
            prompt: Some(Prompt::TokenIds(TokenIds { ids: vec![1, 2] })),
            sampling_params: Some(sampling),
            ..GenerateRequest::default()
        };
        let read = GenerateRequest::decode(request.encode_to_vec().as_slice()).expect("it decodes");
        assert_eq!(read, request);
        let sampling = read.sampling_params.expect("it was there");
        assert_eq!((sampling.temperature, sampling.top_p), (Some(0.0), None));
    }
}
